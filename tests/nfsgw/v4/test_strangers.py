"""Who may use no export has no clients, no sessions and no locks here."""

import ipaddress

import pytest
from nfs4_direct import Client, Gateway

from nfsgw.exports import Right, Rule
from nfsgw.rpc import AUTH_TOOWEAK, AuthFailed

ONE = Rule(ipaddress.ip_network("127.0.0.1/32"), Right.ROOT)


def test_a_stranger_cannot_say_that_he_is_another(gate: Gateway) -> None:
    gate.export("lab", "other", rule=ONE)
    client = Client(gate, owner=b"victim")
    with pytest.raises(AuthFailed) as refused:
        Client(gate, owner=b"victim", address="127.0.0.9")
    assert refused.value.status == AUTH_TOOWEAK
    client.ok()
    gate.export("other", rule=Rule(ipaddress.ip_network("127.0.0.9/32"), Right.READ))
    Client(gate, owner=b"another", address="127.0.0.9")
    client.ok()


def test_who_was_taken_out_of_all_rules_is_a_stranger(gate: Gateway) -> None:
    client = Client(gate, address="127.0.0.9", owner=b"former")
    gate.export("lab", "other", rule=ONE)
    with pytest.raises(AuthFailed):
        client.ok()
