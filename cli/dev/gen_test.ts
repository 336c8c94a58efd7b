import assert from "node:assert/strict";
import { compareTrees, replaceTree } from "./gen.ts";
import { plantTree } from "./_tree_test_support.ts";

Deno.test("compareTrees() names what is missing, left over and different", async () => {
  await using tree = await plantTree({
    "have/same.ts": "1",
    "have/changed.ts": "1",
    "have/old/gone.ts": "1",
    "want/same.ts": "1",
    "want/changed.ts": "2",
    "want/new/born.ts": "1",
  });
  assert.deepEqual(await compareTrees(`${tree.root}/have`, `${tree.root}/want`), [
    "changed.ts differs",
    "new/born.ts is missing",
    "old/gone.ts is left over from a contract that is gone",
  ]);
  assert.deepEqual(await compareTrees(`${tree.root}/have`, `${tree.root}/have`), []);
  await replaceTree(`${tree.root}/have`, `${tree.root}/want`);
  assert.deepEqual(await compareTrees(`${tree.root}/have`, `${tree.root}/want`), []);
});

Deno.test("compareTrees() reports every file when nothing was ever generated", async () => {
  await using tree = await plantTree({ "want/a.ts": "1" });
  assert.deepEqual(await compareTrees(`${tree.root}/have`, `${tree.root}/want`), ["a.ts is missing"]);
});
