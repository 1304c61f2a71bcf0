"""Consumer groups: who reads which partition. Everything here is pure but the coordinator."""
