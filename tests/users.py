"""Files of users, for tests: hashes that nobody has the password of, and how a file is written."""

STORED = f"$scrypt$ln=14,r=8,p=5${'A' * 22}${'B' * 43}"
OTHER = f"$scrypt$ln=14,r=8,p=5${'C' * 22}${'D' * 43}"


def written(path, *lines, mode=0o600):
    path.write_text("".join(f"{line}\n" for line in lines))
    path.chmod(mode)
    return path
