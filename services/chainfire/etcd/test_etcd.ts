import { systemClock } from "@ultracloud/base";
import { freePort } from "@ultracloud/launch";

/** A real etcd with one member, in a directory of its own. For tests. */
export interface Etcd extends AsyncDisposable {
  readonly url: string;
  readonly version: string;
}

/** etcd's version; undefined where it is not installed (Debian: etcd-server). */
export async function etcdVersion(): Promise<string | undefined> {
  try {
    const { stdout } = await new Deno.Command("etcd", { args: ["--version"] }).output();
    return /etcd Version: (\S+)/.exec(new TextDecoder().decode(stdout))?.[1];
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** Why the comparison cannot run here; undefined when it can. */
export async function whyNoEtcd(): Promise<string | undefined> {
  const version = await etcdVersion();
  if (version === undefined) return "etcd is not installed (apt-get install etcd-server)";
  return version.startsWith("3.4.") ? undefined : `etcd is ${version}: wanted 3.4, whose gateway is the model`;
}

export async function startEtcd(): Promise<Etcd> {
  const dir = await Deno.makeTempDir({ prefix: "etcd-" });
  const url = `http://127.0.0.1:${freePort()}`;
  const peerUrl = `http://127.0.0.1:${freePort()}`;
  const flags = {
    "data-dir": `${dir}/data`,
    "listen-client-urls": url,
    "advertise-client-urls": url,
    "listen-peer-urls": peerUrl,
    "initial-advertise-peer-urls": peerUrl,
    "initial-cluster": `default=${peerUrl}`,
    "log-level": "error",
  };
  const child = new Deno.Command("etcd", {
    args: Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value]),
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
  let ended = false;
  const status = child.status.then((result) => {
    ended = true;
    return result;
  });
  const dispose = async () => {
    if (!ended) child.kill("SIGKILL");
    await status;
    await Deno.remove(dir, { recursive: true });
  };
  try {
    const end = performance.now() + 60_000;
    while (!await healthy(url)) {
      if (ended) throw new Error(`etcd ended with ${(await status).code} before it was healthy`);
      if (performance.now() > end) throw new Error("etcd is not healthy within 60 s");
      await systemClock.sleep(50);
    }
  } catch (error) {
    await dispose();
    throw error;
  }
  return { url, version: (await etcdVersion())!, [Symbol.asyncDispose]: dispose };
}

async function healthy(url: string): Promise<boolean> {
  try {
    return ((await (await fetch(`${url}/health`)).json()) as { health: string }).health === "true";
  } catch {
    return false;
  }
}
