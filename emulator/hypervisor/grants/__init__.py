"""Grant tables: one domain lets another map or copy its frames (xen/common/grant_table.c).

`table` is the granting side, `mappings` the side that maps, `peers` what passes between two domains. Neither touches the other:
a request is a message that the granting domain's holder carries out, its answer another.
"""
