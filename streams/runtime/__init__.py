"""The runtime: what Faust needs for partitions whose work is delivered exactly once.

Faust and aiokafka are used as they are where they hold, and replaced where they do not. What of their insides is relied
upon stands in ``tests/integration/test_reliance.py``, which fails when a new version changes it.

==============  ========================================================================================
batches         one Faust event carries what a fetch has brought
decoding        what was fetched, made into records, also where aiokafka stumbles
recovery        taking partitions over, in the order that loses nothing
fences          one transactional producer per partition: whoever had it before is shut out
changelog       reading the state of a partition back, up to the last stable offset
partition       the life of one partition: batches in, checkpoints out, and its clock
worker          the partitions of this worker, and what ends it
cluster         what is checked of the cluster before anything is started
health, logs    how it is seen from outside
==============  ========================================================================================
"""
