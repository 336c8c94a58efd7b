import assert from "node:assert/strict";
import { loadWorkspace } from "./_workspace.ts";

const root = new URL("../..", import.meta.url).pathname.replace(/\/$/, "");
const skipped = new Set(["work", "coverage", "node_modules", ".git", "testdata"]);

async function pages(dir: string): Promise<string[]> {
  const found: string[] = [];
  for await (const entry of Deno.readDir(`${root}/${dir}`)) {
    const path = dir === "" ? entry.name : `${dir}/${entry.name}`;
    if (entry.isDirectory && !skipped.has(entry.name)) found.push(...await pages(path));
    if (entry.isFile && entry.name.endsWith(".md")) found.push(path);
  }
  return found.sort();
}

function exists(path: string): boolean {
  try {
    Deno.statSync(`${root}/${path}`);
    return true;
  } catch {
    return false;
  }
}

Deno.test("every relative link of every page leads to a file", async () => {
  const broken: string[] = [];
  for (const page of await pages("")) {
    const text = (await Deno.readTextFile(`${root}/${page}`)).replace(/^```[\s\S]*?^```/gm, "");
    for (const [, target = ""] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^(https?:|mailto:|#)/.test(target)) continue;
      const path = `${page.replace(/[^/]*$/, "")}${target.replace(/#.*$/, "")}`;
      if (!exists(path)) broken.push(`${page}: ${target}`);
    }
  }
  assert.deepEqual(broken, []);
});

Deno.test("ARCHITECTURE.md names only what exists, and every room of the workspace", async () => {
  const text = await Deno.readTextFile(`${root}/ARCHITECTURE.md`);
  const named = [...text.matchAll(/`([^`\s]+)`/g)].map(([, path = ""]) => path)
    .filter((path) => /^(proto|lib|services|agents|cli|docs|nix|test-cluster|\.ci)\//.test(path) && !/[<*]/.test(path));
  assert.ok(named.length > 20, `only ${named.length} paths were found`);
  assert.deepEqual(named.filter((path) => !exists(path)), []);
  const { members } = await loadWorkspace(root);
  assert.deepEqual(members.filter(({ dir }) => !text.includes(dir)).map(({ dir }) => dir), []);
});

Deno.test("every decision has its three parts and stands in the list", async () => {
  const list = await Deno.readTextFile(`${root}/docs/adr/README.md`);
  const decisions = (await pages("docs/adr")).filter((page) => /\/\d{4}-/.test(page));
  assert.ok(decisions.length >= 14);
  for (const page of decisions) {
    const text = await Deno.readTextFile(`${root}/${page}`);
    for (const part of ["## Context", "## Decision", "## Consequences"]) {
      assert.ok(text.includes(part), `${page}: ${part}`);
    }
    assert.ok(list.includes(`(${page.replace("docs/adr/", "")})`), `${page} is not in the list`);
  }
});
