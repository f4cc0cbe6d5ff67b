"""Pushes: announcements delivered to endpoints over HTTP. Read ``app.py`` first.

==============  ========================================================================================
subscriptions   who wants what, and how: the models, and the book of all that there are
book            the book in Kafka: read by everybody, changed by one at a time
profiles        what a request looks like, and when it is tried again: pure
deliveries      what is due, and how it is stored
processor       events → deliveries → outcomes: the state of one partition, no I/O
dispatcher      which delivery is attempted when: one lane a subscription
sender          one attempt over HTTP
guard           where a request may go
credentials     secrets, by reference
checkpoint      what a checkpoint of a push worker holds
worker, app     the Faust app around it
report          what is told of it all
==============  ========================================================================================
"""
