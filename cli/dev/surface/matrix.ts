import type { Finding, Tree } from "./finding.ts";

const page = "docs/component-matrix.md";

/** Components of the tree against the rows of the matrix, both ways. */
export function judgeMatrix(tree: Tree): Finding[] {
  const findings: Finding[] = [];
  const text = tree.get(page);
  if (text === undefined) {
    return [{ file: page, line: 0, text: page, reason: "the page of the component matrix is gone" }];
  }
  const built = new Map<string, string>();
  for (const [file, manifest] of tree) {
    if (!/^(services|agents)\/[^/]+\/component\.json$/.test(file)) continue;
    built.set(String((JSON.parse(manifest) as { name?: unknown }).name), file.replace("/component.json", ""));
  }
  const rows = new Map<string, { line: number; text: string }>();
  text.split("\n").forEach((line, i) => {
    const name = /^\| `([a-z0-9-]+)` +\|/.exec(line)?.[1];
    if (name !== undefined) rows.set(name, { line: i + 1, text: line });
  });
  for (const [name, dir] of built) {
    const row = rows.get(name);
    if (row === undefined) {
      findings.push({ file: `${dir}/component.json`, line: 0, text: name, reason: `it has no row in ${page}` });
    } else if (!row.text.includes(`](../${dir})`)) {
      findings.push({ file: page, line: row.line, text: name, reason: `its row does not lead to ${dir}` });
    }
  }
  for (const [name, { line, text: row }] of rows) {
    if (built.has(name) || /not in this release/.test(row)) continue;
    findings.push({ file: page, line, text: name, reason: "no component of the tree has this name" });
  }
  return findings;
}
