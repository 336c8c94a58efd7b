import assert from "node:assert/strict";
import { DatabaseSync } from "node:sqlite";
import { warmDenoDir } from "./deno_dir.ts";

Deno.test("warmDenoDir() keeps what this Deno learned of a program, under the name it has on a node", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const program = `${dir}/program.js`;
    await Deno.writeTextFile(program, `import { createHash } from "node:crypto";\nexport default createHash;\n`);
    await warmDenoDir({ files: [program], from: dir, to: "/programs", denoDir: `${dir}/deno`, v8Flags: "--no-opt" });
    using db = new DatabaseSync(`${dir}/deno/dep_analysis_cache_v2`);
    const names = db.prepare("SELECT specifier FROM moduleinfocache").all().map(({ specifier }) => specifier);
    assert.deepEqual(names, ["file:///programs/program.js"]);
    using code = new DatabaseSync(`${dir}/deno/v8_code_cache_v2`);
    const modules = code.prepare("SELECT specifier FROM codecache").all().map(({ specifier }) => String(specifier));
    assert.ok(modules.some((name) => name.startsWith("ext:")), "no compiled module of Deno's own is kept");
    assert.ok(!modules.some((name) => name.startsWith(`file://${dir}/`)));
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
