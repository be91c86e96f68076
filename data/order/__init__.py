"""Which sample comes when: permutations of epochs, mixtures, and the state that proves it."""

from data.order.permutation import (
    ORDER_VERSION,
    Ids,
    Order,
    Permutation,
    Words,
    groups,
    hashes,
    mix,
    shuffled,
    sub_key,
    words,
)

__all__ = [
    "ORDER_VERSION",
    "Ids",
    "Order",
    "Permutation",
    "Words",
    "groups",
    "hashes",
    "mix",
    "shuffled",
    "sub_key",
    "words",
]
