"""Values, names, errors, events and the contracts of the verbs. Imports no other folder."""
