import assert from "node:assert/strict";
import { isDenort } from "./_denort.ts";
import { plantTree } from "./_tree_test_support.ts";

Deno.test("isDenort() takes neither deno itself, nor a copy of it, nor a missing file for the runtime", async () => {
  await using tree = await plantTree({
    "deno-copy": "#!/bin/sh\necho 'deno 2.9.6 (stable)'\n",
    "denort": "#!/bin/sh\nexit 1\n",
  });
  for (const name of ["deno-copy", "denort"]) await Deno.chmod(`${tree.root}/${name}`, 0o755);
  assert.equal(await isDenort(Deno.execPath()), false);
  assert.equal(await isDenort(`${tree.root}/deno-copy`), false);
  assert.equal(await isDenort(`${tree.root}/none`), false);
  assert.equal(await isDenort(`${tree.root}/denort`), true);
});
