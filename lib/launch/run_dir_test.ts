import assert from "node:assert/strict";
import { Fault } from "@ultracloud/base";
import { makeRunDir } from "./run_dir.ts";

Deno.test("makeRunDir() refuses what somebody else put there and closes what is open", async () => {
  const dir = await Deno.makeTempDir();
  try {
    await Deno.mkdir(`${dir}/theirs`);
    await Deno.symlink(`${dir}/theirs`, `${dir}/link`);
    await assert.rejects(
      makeRunDir(`${dir}/link`),
      (error) => error instanceof Fault && error.code === "directory_foreign",
    );
    await Deno.mkdir(`${dir}/open`, { mode: 0o777 });
    await makeRunDir(`${dir}/open`);
    assert.equal((await Deno.stat(`${dir}/open`)).mode! & 0o777, 0o700);
    await makeRunDir(`${dir}/fresh`);
    assert.equal((await Deno.stat(`${dir}/fresh`)).mode! & 0o777, 0o700);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
