import { OperationState } from "@ultracloud/proto/common/v1";
import { AddressPoolService, FloatingIpService, NatGatewayService, PortService } from "@ultracloud/proto/prismnet/v1";
import { ComputeCloud, project, until, vmRequest } from "./cloud.ts";
import { Fabric, outside, uplink } from "./fabric.ts";
import type { Proof } from "./proof.ts";

const workers = ["n1", "n2"] as const;
const httpPort = 80;

/** Echoes what is posted while it comes; busybox's httpd gives it both ends at once. */
const guestScript = `#!/bin/sh
mkdir -p /www/cgi-bin
cat >/www/cgi-bin/echo <<'END'
#!/bin/sh
printf 'Content-type: text/plain\\r\\n\\r\\n'
exec cat
END
chmod 755 /www/cgi-bin/echo
`;

/** A connection from outside to a guest's floating IP stays open while the guest moves between two hosts of OVN. */
export async function network(proof: Proof): Promise<void> {
  const fabric = new Fabric(workers);
  await using cloud = await ComputeCloud.open({ workers, network: fabric });
  proof.seen("two workers, each with a switch of its own, joined by a tunnel");
  const { vms } = cloud;
  await cloud.done(vms.createVm({ ...vmRequest("web"), userData: guestScript }));
  const { node: first, nics } = await vms.getVm({ project, vm: "web" });
  await until("the guest has run its user data", 90_000, async () => {
    const { data } = await vms.getConsoleLog({ project, vm: "web", offset: -4096n });
    return new TextDecoder().decode(data).includes("ULTRACLOUD_USER_DATA_DONE code=0");
  });
  const address = await floatingIp(cloud, nics[0]!.portId);
  proof.seen(`the guest runs on ${first} and has ${nics[0]!.ipAddress}, outside ${address}`);

  await using client = await EchoClient.open(fabric.enter(workers[0]), address);
  await client.grows("lines come back");
  proof.seen(`a connection is open: ${client.now.received} lines have come back`);
  const port = () => cloud.client(PortService, "prismnet").getPort({ project, port: nics[0]!.portId });

  for (const [from, to] of [[first, other(first)], [other(first), first]] as const) {
    client.longestMs = 0;
    const before = client.now.received;
    await cloud.done(vms.migrateVm({ project, vm: "web" }));
    const { node, migration } = await vms.getVm({ project, vm: "web" });
    if (node !== to) throw new Error(`The guest is on ${node} instead of ${to}`);
    await client.grows(`lines come back from ${to}`);
    const { downtimeMs, totalMs } = migration!;
    proof.seen(
      `moved from ${from} to ${to}: ${downtimeMs} ms down, ${totalMs} ms in all; the connection goes on, ` +
        `${client.now.received - before} lines later, its longest gap ${client.longestMs} ms`,
    );
    const { host, arrivingHost } = await port();
    proof.check(host === to && arrivingHost === "", `its port is ${to}'s alone`);
  }

  client.longestMs = 0;
  await cancelled(cloud, client, proof);
  const { host, arrivingHost } = await port();
  proof.check(host === first && arrivingHost === "", `its port is ${first}'s alone, as before`);
  await client.grows("lines come back after a cancel");
  proof.seen(`the connection goes on after a cancelled migration, its longest gap ${client.longestMs} ms`);
  // The client ends when its connection does, or when a line is missing.
  proof.seen(`all of it over one connection: ${client.now.received} lines in order`);
}

const other = (worker: string) => workers.find((name) => name !== worker)!;

/** Begins to move the guest and takes it back while its memory is under way. */
async function cancelled(cloud: ComputeCloud, client: EchoClient, proof: Proof): Promise<void> {
  const { vms, operations } = cloud;
  const move = await vms.migrateVm({ project, vm: "web" });
  await until("the port is bound to both", 30_000, async () => {
    const { ports } = await cloud.client(PortService, "prismnet").listPorts({ project });
    return ports.some((port) => port.arrivingHost !== "");
  });
  await operations.cancelOperation({ project, id: move.id });
  const { state } = await cloud.over(move);
  proof.check(state === OperationState.CANCELLED, "a migration is cancelled while both workers carry the port");
  await client.grows("lines come back at once");
}

/** A way in from outside to a guest's port. */
async function floatingIp(cloud: ComputeCloud, portId: string): Promise<string> {
  const pools = cloud.client(AddressPoolService, "prismnet");
  await pools.createAddressPool({ name: "public", cidr: outside.cidr, gatewayIp: outside.gatewayIp, uplink });
  const gateways = cloud.client(NatGatewayService, "prismnet");
  await gateways.createNatGateway({ project, name: "way", vpc: "net", addressPool: "public" });
  const ips = cloud.client(FloatingIpService, "prismnet");
  const { ipAddress } = await ips.createFloatingIp({ project, name: "web", addressPool: "public" });
  await ips.attachFloatingIp({ project, floatingIp: "web", port: portId });
  return ipAddress;
}

/** The client of `echo_client_main.ts` outside of the tenant's network, with what it said last. */
class EchoClient implements AsyncDisposable {
  now = { sent: 0, received: 0 };
  /** Longest time without a line since this was set to 0. */
  longestMs = 0;
  readonly #child: Deno.ChildProcess;
  readonly #reading: Promise<void>;
  #ended: string | undefined;

  private constructor(child: Deno.ChildProcess) {
    this.#child = child;
    this.#reading = this.#read();
  }

  /** Tries until the guest takes the connection; from then on it is never opened again. */
  static async open(enter: readonly string[], address: string): Promise<EchoClient> {
    const main = new URL("./echo_client_main.ts", import.meta.url).pathname;
    let client: EchoClient | undefined;
    await until("the guest takes a connection", 60_000, async () => {
      const [program, ...args] = [...enter, Deno.execPath(), "run", "-q", "-A", main, address, String(httpPort)];
      const child = new Deno.Command(program!, { args, stdin: "null", stdout: "piped", stderr: "piped" }).spawn();
      client = new EchoClient(child);
      await until("the first line comes back", 10_000, () => client!.#ended !== undefined || client!.now.received > 0);
      if (client.#ended === undefined) return true;
      await client[Symbol.asyncDispose]();
      return false;
    });
    return client!;
  }

  /** Waits until more lines have come back than now. */
  async grows(what: string): Promise<void> {
    const { sent } = this.now;
    await until(what, 60_000, () => {
      if (this.#ended !== undefined) throw new Error(this.#ended);
      return this.now.received > sent;
    });
  }

  async #read(): Promise<void> {
    const lines = this.#child.stdout.pipeThrough(new TextDecoderStream());
    let text = "";
    for await (const part of lines) {
      text += part;
      const whole = text.split("\n");
      text = whole.pop()!;
      for (const line of whole) {
        const { gapMs, ...now } = JSON.parse(line) as { sent: number; received: number; gapMs: number };
        this.now = now;
        this.longestMs = Math.max(this.longestMs, gapMs);
      }
    }
    this.#ended = `The client ended: ${(await new Response(this.#child.stderr).text()).trim().slice(0, 400)}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
    }
    await this.#reading;
    await this.#child.status;
  }
}
