import { fault, toHex, utf8 } from "@ultracloud/base";
import type { ComponentProcess, Stack } from "@ultracloud/launch";
import { type GateConfig, startGate } from "./gate.ts";

/**
 * Where the tenant networks of a quickstart are when OVN carries them: a network namespace of its own. Switch, taps and
 * guests live in it, so the host's network is left as it is; net-agent and vm-agent run in it, and two gates carry their
 * calls between its loopback and the host's.
 */

/** What the namespace's own end of the network outside is called by address pools. */
export const uplinkName = "outside";
export const outside = { cidr: "172.30.0.0/24", gatewayIp: "172.30.0.1", floatingIp: "172.30.0.100" } as const;
/** Where whoever connects is told under which address it is seen. */
export const mirrorPort = 8080;
/** Components that touch the network of guests. */
const insiders = ["net-agent", "vm-agent"] as const;

export interface Fabric {
  readonly namespace: string;
  /** Command that starts a program inside. */
  readonly enter: readonly string[];
  /** Components that run inside. */
  readonly insiders: readonly string[];
  /** Merged into the configuration of components. */
  readonly overrides: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
  /** Starts the gates; components find each other from then on. */
  start(stack: Stack): Promise<ComponentProcess[]>;
  /** Connects from the network outside to a port of the floating IP; answers whether somebody took it in time. */
  reaches(stack: Stack, port: number, timeoutMs: number): Promise<boolean>;
}

/** Name of the namespace of a quickstart: one for each place on this host. */
export async function namespaceOf(home: { readonly root: string }): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", utf8.encode(home.root)));
  return `uc-${toHex(digest).slice(0, 8)}`;
}

async function ip(...args: string[]): Promise<void> {
  const output = await new Deno.Command("ip", { args, stdin: "null", stdout: "null", stderr: "piped" }).output();
  if (output.success) return;
  const words = utf8.decode(output.stderr).trim().slice(-200);
  throw fault("failed_precondition", "namespace_failed", `Cannot run ip ${args.join(" ")}: ${words}`);
}

async function namespaceExists(name: string): Promise<boolean> {
  return await Deno.lstat(`/run/netns/${name}`).then(() => true, () => false);
}

/** Removes the namespace with everything in it, when there is one; its processes must have ended. */
export async function removeNamespace(name: string): Promise<boolean> {
  if (!await namespaceExists(name)) return false;
  await ip("netns", "delete", name);
  return true;
}

/** Makes the namespace. `ports` are listeners by name; `guestPorts` those of the guest that may be tried from inside. */
export async function makeFabric(options: {
  readonly root: string;
  readonly namespace: string;
  readonly ports: Readonly<Record<string, number>>;
  readonly guestPorts: readonly number[];
}): Promise<Fabric> {
  const { namespace, ports, root } = options;
  await removeNamespace(namespace);
  await ip("netns", "add", namespace);
  await ip("-n", namespace, "link", "set", "lo", "up");
  const enter = ["ip", "netns", "exec", namespace];
  const loopback = (listener: string) => `127.0.0.1:${ports[listener]}`;
  const inSocket = (stack: Stack) => `${stack.runDir}/gate/in.sock`;
  const outSocket = (stack: Stack) => `${stack.runDir}/gate/out.sock`;
  const guest = (port: number) => `${outside.floatingIp}:${port}`;
  return {
    namespace,
    enter,
    insiders,
    overrides: {
      prismnet: { engine: "ovn" },
      "net-agent": { uplinks: [{ name: uplinkName, address: `${outside.gatewayIp}/24` }] },
    },
    async start(stack) {
      await Deno.mkdir(`${stack.runDir}/gate`, { recursive: true, mode: 0o700 });
      const callees = new Set(insiders.flatMap((name) => stack.member(name).manifest.calls).map(loopback));
      const own = insiders.map((name) => loopback(`${name}.rpc`));
      const same = (address: string) => ({ address, target: address });
      const outer: GateConfig = {
        socket: outSocket(stack),
        peerSocket: inSocket(stack),
        targets: [...callees],
        listen: [...own.map(same), { address: loopback("gate.page"), target: guest(options.guestPorts[0]!) }],
      };
      const inner: GateConfig = {
        socket: inSocket(stack),
        peerSocket: outSocket(stack),
        targets: [...own, ...options.guestPorts.map(guest)],
        listen: [...callees].map(same),
        mirror: `0.0.0.0:${mirrorPort}`,
      };
      return await Promise.all([
        startGate("gate-out", outer, stack, { root }),
        startGate("gate-in", inner, stack, { root, enter }),
      ]);
    },
    async reaches(stack, port, timeoutMs) {
      const connection = await Deno.connect({ transport: "unix", path: inSocket(stack) });
      // Closing ends the read: who has not answered by then drops what it gets.
      const timer = setTimeout(() => connection.close(), timeoutMs);
      let open = true;
      try {
        await connection.write(utf8.encode(`${guest(port)}\n`));
        const answer = new Uint8Array(1);
        return await connection.read(answer) === 1 && answer[0] === "+".charCodeAt(0);
      } catch (error) {
        open = false;
        if (error instanceof Deno.errors.BadResource || error instanceof Deno.errors.Interrupted) return false;
        throw error;
      } finally {
        clearTimeout(timer);
        if (open) connection.close();
      }
    },
  };
}
