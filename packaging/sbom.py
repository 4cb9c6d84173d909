#!/usr/bin/env python3
"""Lists what the programs consist of: a CycloneDX list of crates, and their licences.

Both come from `cargo metadata` and Cargo.lock: the crates that v4-run and v4-convert are
built from on x86-64 Linux, without those that only tests use.
"""

import argparse
import json
import os
import pathlib
import subprocess
import tomllib
import uuid

PROGRAMS = ("v4-run", "v4-convert")
TARGET = "x86_64-unknown-linux-gnu"


def metadata(manifest, offline):
    manifest = pathlib.Path(manifest).resolve()
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--manifest-path", manifest]
    command += ["--filter-platform", TARGET]
    if offline:
        command.append("--offline")
    # Where cargo finds the project's own settings, such as vendored crates.
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=manifest.parent)
    return json.loads(ran.stdout)


def reached(graph):
    """Ids of all crates that the programs need, and of what each needs."""
    names = {package["id"]: package["name"] for package in graph["packages"]}
    nodes = {node["id"]: node for node in graph["resolve"]["nodes"]}
    needs, todo = {}, [i for i in graph["workspace_members"] if names[i] in PROGRAMS]
    while todo:
        at = todo.pop()
        if at in needs:
            continue
        needs[at] = sorted(
            dep["pkg"]
            for dep in nodes[at]["deps"]
            if any(kind["kind"] != "dev" for kind in dep["dep_kinds"])
        )
        todo += needs[at]
    return needs


def checksums(lock):
    packages = tomllib.loads(lock.read_text())["package"]
    return {(p["name"], p["version"]): p.get("checksum") for p in packages}


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, sums):
    entry = {
        "type": "library",
        "bom-ref": purl(package),
        "name": package["name"],
        "version": package["version"],
        "purl": purl(package),
    }
    if package.get("description"):
        entry["description"] = " ".join(package["description"].split())
    if package.get("license"):
        # Older crates write A/B for A OR B.
        entry["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    checksum = sums.get((package["name"], package["version"]))
    if checksum:
        entry["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package.get("repository"):
        entry["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return entry


def sbom(packages, needs, sums, version, epoch):
    body = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": "v4-run",
                "name": "v4-run",
                "version": version,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            },
        },
        "components": [component(packages[i], sums) for i in needs],
        "dependencies": [
            {"ref": purl(packages[i]), "dependsOn": [purl(packages[d]) for d in needs[i]]}
            for i in needs
        ],
    }
    roots = sorted(purl(packages[i]) for i in needs if packages[i]["name"] in PROGRAMS)
    body["dependencies"].append({"ref": "v4-run", "dependsOn": roots})
    text = json.dumps(body, sort_keys=True)
    # The same content has the same number.
    body["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, text)}"
    if epoch is not None:
        import datetime

        time = datetime.datetime.fromtimestamp(epoch, datetime.timezone.utc)
        body["metadata"]["timestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ")
    return body


def licence_files(package):
    folder = pathlib.Path(package["manifest_path"]).parent
    words = ("licen", "copying", "notice", "copyright")
    found = [p for p in folder.iterdir() if p.is_file() and p.name.lower().startswith(words)]
    return sorted(found)


def licences(packages, needs):
    """Each text once, with the crates that it is the licence of."""
    texts, lines = {}, []
    for i in needs:
        package = packages[i]
        if package["source"] is None:
            continue
        lines.append(f"{package['name']} {package['version']}: {package['license']}")
        for path in licence_files(package):
            text = path.read_text(errors="replace").strip()
            texts.setdefault(text, []).append(f"{package['name']} {package['version']}")
    out = ["The programs contain these crates:", "", *lines]
    for text, crates in texts.items():
        out += ["", "-" * 78, "Of " + ", ".join(crates) + ":", "", text]
    return "\n".join(out) + "\n"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--manifest", required=True, help="the workspace's Cargo.toml")
    arguments.add_argument("--version", required=True, help="version of the programs")
    arguments.add_argument("--sbom", required=True, type=pathlib.Path, help="CycloneDX JSON")
    arguments.add_argument("--licences", required=True, type=pathlib.Path, help="text")
    arguments.add_argument("--offline", action="store_true", help="ask no registry")
    given = arguments.parse_args()
    graph = metadata(given.manifest, given.offline)
    packages = {package["id"]: package for package in graph["packages"]}
    needs = reached(graph)
    needs = dict(sorted(needs.items(), key=lambda item: purl(packages[item[0]])))
    sums = checksums(pathlib.Path(given.manifest).parent / "Cargo.lock")
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    body = sbom(packages, needs, sums, given.version, int(epoch) if epoch else None)
    given.sbom.write_text(json.dumps(body, indent=2) + "\n")
    given.licences.write_text(licences(packages, needs))


if __name__ == "__main__":
    main()
