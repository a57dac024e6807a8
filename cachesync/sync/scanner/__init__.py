"""Compares the disk with the journal and marks paths dirty.

``notice`` compares the hinted paths, ``scan`` a whole session. Both use ``judging.judge``, so a change gets one mark
however often it is seen. The journal is read before the disk: otherwise, a file created in between would look deleted.
A missing path counts as deleted only while its session's directory exists (P7).
"""
