// Lays unpacked packages out as Deno's npm cache has them: npm/<host>/<name>/<version>/ and, per name, a registry.json
// that says no more than the packages themselves do. Usage: node npm-index.mjs LISTING OUT
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";

const [listing, out] = process.argv.slice(2);
const byName = new Map();
for (const { name, version, integrity, tarball } of JSON.parse(readFileSync(listing, "utf8"))) {
  const dir = `${out}/npm.invalid/${name}/${version}`;
  mkdirSync(dir, { recursive: true });
  // The one folder inside has any name; some files come without read permission.
  execFileSync("tar", ["-xzf", tarball, "-C", dir, "--strip-components=1", "--no-same-owner", "--no-same-permissions"]);
  const { dependencies, optionalDependencies, peerDependencies, peerDependenciesMeta, bin, os, cpu } = JSON.parse(
    readFileSync(`${dir}/package.json`, "utf8"),
  );
  const known = { dependencies, optionalDependencies, peerDependencies, peerDependenciesMeta, bin, os, cpu };
  const dist = { tarball: `https://npm.invalid/${name}/${version}.tgz`, shasum: "", integrity };
  const versions = byName.get(name) ?? {};
  versions[version] = { version, dist, ...known };
  byName.set(name, versions);
}
for (const [name, versions] of byName) {
  const sorted = Object.fromEntries(Object.entries(versions).sort(([a], [b]) => (a < b ? -1 : 1)));
  const latest = Object.keys(sorted).at(-1);
  writeFileSync(
    `${out}/npm.invalid/${name}/registry.json`,
    JSON.stringify({ name, "dist-tags": { latest }, versions: sorted, "_deno.etag": null }),
  );
}
if (readdirSync(out).length === 0) throw new Error(`Cannot make a cache of no packages: ${listing} lists none`);
