"""A real KVM host under test: booted in a virtual machine, broken on purpose, judged. ``docs/lab.md`` tells what came out.

``pytest tests/lab`` builds the image of kvm01 (kept outside the repository), boots it, freezes it, and gives every
scenario a clone of its own.
"""
