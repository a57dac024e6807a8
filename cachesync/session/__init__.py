"""The life of a session (verbs.Lifecycle), and its entries on demand (verbs.OnDemand).

One verb at a time works on one session. Every verb begins with a scan: what changed here is marked before anything is
compared with the store, or goes.
"""
