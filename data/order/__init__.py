"""Which sample comes when: permutations of epochs, mixtures, and the state that proves it."""

from data.order.permutation import Ids, Order, Words, mix, shuffled, words

__all__ = ["Ids", "Order", "Words", "mix", "shuffled", "words"]
