/** Where version 2 of control groups may be mounted. */
const roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/** A control group of one instance: what it starts stays in it, whatever sessions it makes. */
export interface Cgroup extends Disposable {
  add(pid: number): void;
  /** Every process in it, at once. */
  kill(): void;
}

/** A control group, or undefined where the host has none for us; a process group is then all that holds it together. */
export function makeCgroup(id: string): Cgroup | undefined {
  for (const root of roots) {
    const parent = `${root}/ultracloud`;
    const dir = `${parent}/${id}`;
    try {
      // A directory anywhere else can be made too; only here the kernel fills it.
      Deno.statSync(`${root}/cgroup.controllers`);
      Deno.mkdirSync(dir, { recursive: true });
      Deno.statSync(`${dir}/cgroup.kill`);
    } catch {
      continue;
    }
    return {
      add: (pid) => Deno.writeTextFileSync(`${dir}/cgroup.procs`, String(pid)),
      kill: () => Deno.writeTextFileSync(`${dir}/cgroup.kill`, "1"),
      [Symbol.dispose]() {
        try {
          Deno.removeSync(dir);
        } catch {
          // Still ending, or gone: the next instance of this id makes it anew.
        }
      },
    };
  }
  return undefined;
}
