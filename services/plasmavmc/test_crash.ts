import { fault } from "@ultracloud/base";
import type { KvBackend } from "@ultracloud/platform";
import type { Operation } from "@ultracloud/proto/common/v1";
import { over, type Process, project, type World } from "./test_world.ts";

/** A store's connection that dies with write number `n`: before it takes effect, or after but before the answer. */
function dyingAt(
  kv: KvBackend,
  n: number,
  when: "before" | "after",
): KvBackend & { readonly dead: Promise<void>; died(): boolean } {
  let writes = 0;
  let dead = false;
  let told = () => {};
  const death = new Promise<void>((resolve) => told = resolve);
  const check = () => {
    if (dead) throw fault("unavailable", "process_dead", "Cannot go on as this process is dead");
  };
  const die = () => {
    dead = true;
    told();
    check();
  };
  return {
    dead: death,
    died: () => dead,
    get: (...args) => (check(), kv.get(...args)),
    scan: (...args) => (check(), kv.scan(...args)),
    watch: (...args) => (check(), kv.watch(...args)),
    async write(...args) {
      check();
      if (++writes === n && when === "before") die();
      const result = await kv.write(...args);
      if (writes === n) die();
      return result;
    },
  };
}

/** Runs `begin` in a process that dies at its n-th write; answers false when it got through. */
export async function crash(
  world: World,
  n: number,
  when: "before" | "after",
  begin: (process: Process) => Promise<Operation>,
) {
  const kv = dyingAt(world.kv, n, when);
  await using process = await world.boot({ kv, reconcileMs: 3_600_000 });
  const leave = new AbortController();
  const done = begin(process).then((operation) => over(process, operation, leave.signal)).then(() => {}, () => {});
  await Promise.race([kv.dead, done]);
  leave.abort();
  await done;
  return kv.died();
}

/** The one operation of the project, over in a process that lives. */
export async function settled(process: Process, kind: string): Promise<Operation | undefined> {
  const { operations } = await process.operations.listOperations({ project });
  const operation = operations.find((o) => o.kind === kind);
  return operation && await over(process, operation);
}
