"""What the machine gives: programs, disks, signals, systemd."""
