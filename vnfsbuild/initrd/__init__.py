"""Initramfs archives: the capsule's, which makes layers a root, and the bootstrap's."""
