import { VmService } from "@ultracloud/proto/plasmavmc/v1";
import { ComputeCloud, project, until } from "./cloud.ts";
import type { Proof } from "./proof.ts";

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

/** The serial console: history by offset, two readers, a login that is typed, and a guest that floods it. */
export async function serialConsole(proof: Proof): Promise<void> {
  const consoleBytesMax = 256 * 1024;
  await using cloud = await ComputeCloud.open({ workers: ["n1"], workerConfig: { consoleBytesMax } });
  const { vms } = cloud;
  await cloud.done(vms.createVm(cloud.vmRequest("web")));
  await cloud.guest("web", "true");
  const all = await vms.getConsoleLog({ project, vm: "web" });
  const part = await vms.getConsoleLog({ project, vm: "web", offset: 10n, limit: 5 });
  proof.check(text(all.data).slice(10, 15) === text(part.data), "history by offset is a part of the whole");

  const stop = new AbortController();
  const heard = ["", ""];
  const readers = heard.map(async (_, i) => {
    const client = cloud.client(VmService);
    try {
      for await (const piece of client.followConsole({ project, vm: "web", offset: -1n }, { signal: stop.signal })) {
        heard[i] += text(piece.data);
      }
    } catch (error) {
      if (!stop.signal.aborted) throw error;
    }
  });
  const say = (line: string) => vms.writeConsole({ project, vm: "web", data: new TextEncoder().encode(line) });
  await say("\r");
  await until("a login prompt", 30_000, () => heard[0]!.includes("login:"));
  await say("guest\r");
  await until("a shell", 30_000, () => /[$#] $/.test(heard[0]!));
  await say("echo $((6 * 7)) answers\r");
  await until("both readers hear the answer", 30_000, () => heard.every((h) => h.includes("42 answers")));
  proof.seen("a login was typed, a command ran, and two readers heard it");

  await cloud.guest(
    "web",
    "(i=0; while [ $i -lt 60 ]; do i=$((i+1)); head -c 65536 /dev/zero | tr '\\0' x >/dev/ttyS0; done) >/dev/null 2>&1 &",
  );
  const dir = `${cloud.stateDirOf("n1")}/vms`;
  let most = 0;
  await until("the flood has passed the ring", 180_000, async () => {
    for (const vm of Deno.readDirSync(dir)) {
      for (const file of Deno.readDirSync(`${dir}/${vm.name}`)) {
        if (file.name.startsWith("console")) {
          most = Math.max(most, Deno.statSync(`${dir}/${vm.name}/${file.name}`).size);
        }
      }
    }
    return (await vms.getConsoleLog({ project, vm: "web", offset: -1n })).nextOffset > BigInt(4 * consoleBytesMax);
  });
  const oldest = await vms.getConsoleLog({ project, vm: "web", offset: 0n, limit: 1 });
  proof.check(
    oldest.offset > 0n,
    `a flood of ${4 * consoleBytesMax} bytes: the ring starts at ${oldest.offset}, its file was at most ${most} bytes`,
  );
  stop.abort();
  await Promise.all(readers);
  await cloud.done(vms.deleteVm({ project, vm: "web" }));
}
