"""The rehearsal world: a clinic, its case site, a teacher and a tiny student, so that the whole
road runs offline."""
