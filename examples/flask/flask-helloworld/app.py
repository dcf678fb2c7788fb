"""Shows what it was built from: one line per ancestor image."""

import os
from pathlib import Path

from flask import Flask, jsonify, render_template

LINEAGE = Path("/etc/lineage.d")

app = Flask(__name__)


def lineage() -> dict[str, str]:
    """Name and version of every level, lowest first."""
    levels = (path.read_text(encoding="utf-8").strip() for path in sorted(LINEAGE.iterdir()))
    named = dict(level.split(" ", 1) for level in levels)
    return named | {"flask-helloworld": os.environ["APP_VERSION"]}


@app.get("/")
def page() -> str:
    """The page for browsers."""
    return render_template("page.html", levels=lineage(), pod=os.environ.get("POD_NAME", "unknown"))


@app.get("/versions")
def versions():
    """The same for programs, as JSON."""
    return jsonify(lineage())


@app.get("/healthz")
def health() -> str:
    """For the kubelet's probes."""
    return "ok"
