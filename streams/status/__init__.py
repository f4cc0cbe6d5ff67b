"""The trip status: planned trips, what drivers say of them, and the trips that the ignition derives for them."""
