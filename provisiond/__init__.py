"""provisiond: knows the nodes, answers their check-ins, hands out capsules."""
