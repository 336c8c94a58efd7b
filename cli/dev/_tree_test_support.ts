/** A temporary folder with the given files, gone after use. */
export interface PlantedTree extends AsyncDisposable {
  readonly root: string;
}

/** Writes `files` (relative path to text) below a fresh temporary folder. */
export async function plantTree(files: Readonly<Record<string, string>>): Promise<PlantedTree> {
  const root = await Deno.makeTempDir({ prefix: "uc-tree-" });
  for (const [path, text] of Object.entries(files)) {
    const file = `${root}/${path}`;
    await Deno.mkdir(file.replace(/\/[^/]*$/, ""), { recursive: true });
    await Deno.writeTextFile(file, text);
  }
  return { root, [Symbol.asyncDispose]: () => Deno.remove(root, { recursive: true }) };
}
