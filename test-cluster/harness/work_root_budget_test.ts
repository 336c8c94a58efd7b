import assert from "node:assert/strict";
import { pruneRuns, workRootBudget } from "./work_root_budget.ts";

const runs = ["20260401T100000Z", "20260402T100000Z", "20260403T100000Z"] as const;

/** A work root with three runs of a lane; `latest` points at the oldest. */
async function withRoot(work: (root: string) => Promise<void>): Promise<void> {
  const root = await Deno.makeTempDir({ prefix: "uc-budget-" });
  try {
    for (const run of runs) {
      await Deno.mkdir(`${root}/fresh-smoke/${run}`, { recursive: true });
      await Deno.writeFile(`${root}/fresh-smoke/${run}/evidence`, crypto.getRandomValues(new Uint8Array(16_384)));
    }
    await Deno.symlink(runs[0], `${root}/fresh-smoke/latest`);
    await Deno.mkdir(`${root}/cache`);
    await Deno.writeTextFile(`${root}/cache/20260401T100000Z`, "no run: a file of that name");
    await work(root);
  } finally {
    await Deno.remove(root, { recursive: true });
  }
}

const present = (root: string) => [...Deno.readDirSync(`${root}/fresh-smoke`)].map(({ name }) => name).sort();

Deno.test("pruneRuns() names what it would remove, removes it when told, and keeps what latest points at", async () => {
  await withRoot(async (root) => {
    assert.deepEqual(await pruneRuns(root, 1, false), [`fresh-smoke/${runs[1]}`]);
    assert.deepEqual(present(root), [...runs, "latest"]);
    assert.deepEqual(await pruneRuns(root, 1, true), [`fresh-smoke/${runs[1]}`]);
    assert.deepEqual(present(root), [runs[0], runs[2], "latest"]);
  });
});

Deno.test("work-root-budget enforce fails when a part is over its budget, and only then", async () => {
  await withRoot(async (root) => {
    const budget = (bytesMax: number) => [{ path: "", bytesMax, advice: "less" }];
    assert.equal(await workRootBudget(root, ["enforce"], false, budget(1_000)), 1);
    assert.equal(await workRootBudget(root, ["enforce"], false, budget(10_000_000)), 0);
    assert.equal(await workRootBudget(root, ["status"], false, budget(1_000)), 0);
  });
});

Deno.test("work-root-budget refuses verbs and counts it does not know", async () => {
  for (const words of [[], ["shrink"], ["prune-proof-logs"], ["prune-proof-logs", "0"], ["prune-proof-logs", "x"]]) {
    await assert.rejects(workRootBudget("/nowhere", words, false), { code: "usage" });
  }
});
