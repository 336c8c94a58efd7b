import { VmService } from "@ultracloud/proto/plasmavmc/v1";
import { ComputeCloud, project, until, vmRequest } from "./cloud.ts";
import type { Proof } from "./proof.ts";
import { Terminal } from "./terminal.ts";

/** A guest's shell asks a terminal where its cursor is; that is no part of what it says. */
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).replaceAll("\x1b[6n", "");
const consoleBytesMax = 256 * 1024;
const floodBytes = 4 * consoleBytesMax;

/** The serial console: history by offset, two readers, a login that is typed, `uc` on a terminal, and a flood. */
export async function serialConsole(proof: Proof): Promise<void> {
  await using cloud = await ComputeCloud.open({ workers: ["n1"], workerConfig: { consoleBytesMax } });
  const { vms } = cloud;
  await cloud.done(vms.createVm(vmRequest("web")));
  await cloud.guest("web", "true");
  const all = await vms.getConsoleLog({ project, vm: "web" });
  const part = await vms.getConsoleLog({ project, vm: "web", offset: 10n, limit: 5 });
  proof.check(text(all.data).slice(10, 15) === text(part.data), "history by offset is a part of the whole");

  await twoReaders(cloud, proof);
  await onTerminal(cloud, proof);
  await flood(cloud, proof);
  await cloud.done(vms.deleteVm({ project, vm: "web" }));
}

/** Two follow the line while a login is typed by calls. */
async function twoReaders(cloud: ComputeCloud, proof: Proof): Promise<void> {
  const stop = new AbortController();
  const heard = ["", ""];
  const failures: unknown[] = [];
  const readers = heard.map(async (_, i) => {
    const client = cloud.client(VmService);
    try {
      for await (const piece of client.followConsole({ project, vm: "web", offset: -1n }, { signal: stop.signal })) {
        heard[i] += text(piece.data);
      }
    } catch (error) {
      if (!stop.signal.aborted) failures.push(error);
    }
  });
  const say = (line: string) => cloud.vms.writeConsole({ project, vm: "web", data: new TextEncoder().encode(line) });
  const hears = (what: string, holds: () => boolean) =>
    until(`${what}, heard ${JSON.stringify(heard[0]!.slice(-200))}`, 30_000, () => {
      if (failures.length > 0) throw failures[0];
      return holds();
    });
  try {
    await say("\r");
    await hears("a login prompt", () => heard[0]!.includes("login:"));
    await say("guest\r");
    await hears("a shell", () => /[$#] $/.test(heard[0]!));
    await say("echo $((6 * 7)) answers\r");
    await hears("both readers hear the answer", () => heard.every((h) => h.includes("42 answers")));
    proof.seen("a login was typed, a command ran, and two readers heard it");
    await say("exit\r");
  } finally {
    stop.abort();
    await Promise.all(readers);
  }
}

/** A person at a terminal: `uc vm console` types the login and leaves by its own key. */
async function onTerminal(cloud: ComputeCloud, proof: Proof): Promise<void> {
  await using terminal = Terminal.open(["vm", "console", "web"], await cloud.ucEnvironment());
  await terminal.sees(/Attached to web/);
  await terminal.type("\r");
  await terminal.sees(/login: $/);
  await terminal.type("guest\r");
  await terminal.sees(/[$#] $/);
  await terminal.type("echo $((7 * 8)) on a terminal\r");
  await terminal.sees(/56 on a terminal/);
  await terminal.type("exit\r");
  await terminal.sees(/login: $/);
  await terminal.type("\x1dd");
  const { code } = await terminal.ended();
  proof.check(
    code === 0 && /Detached from web/.test(terminal.seen),
    "`uc vm console` on a terminal: logged in, ran a command, logged out and detached",
  );
}

/** A guest that writes without end. */
async function flood(cloud: ComputeCloud, proof: Proof): Promise<void> {
  await cloud.guest(
    "web",
    "(i=0; while [ $i -lt 60 ]; do i=$((i+1)); head -c 65536 /dev/zero | tr '\\0' x >/dev/ttyS0; done) >/dev/null 2>&1 &",
  );
  const dir = `${cloud.workers.stateDirOf("n1")}/vms`;
  let most = 0;
  await until("the flood has passed the ring", 180_000, async () => {
    for (const vm of Deno.readDirSync(dir)) {
      let sum = 0;
      for (const file of Deno.readDirSync(`${dir}/${vm.name}`)) {
        if (!/^console.*(log|head)$/.test(file.name)) continue;
        try {
          sum += Deno.statSync(`${dir}/${vm.name}/${file.name}`).size;
        } catch (error) {
          // The agent throws old heads away.
          if (!(error instanceof Deno.errors.NotFound)) throw error;
        }
      }
      most = Math.max(most, sum);
    }
    const { nextOffset } = await cloud.vms.getConsoleLog({ project, vm: "web", offset: -1n });
    return nextOffset > BigInt(floodBytes);
  });
  const oldest = await cloud.vms.getConsoleLog({ project, vm: "web", offset: 0n, limit: 1 });
  proof.check(
    oldest.offset > 0n && most < floodBytes,
    `a flood of more than ${floodBytes} bytes: the ring of ${consoleBytesMax} starts at ${oldest.offset}, its files ` +
      `held at most ${most} bytes`,
  );
}
