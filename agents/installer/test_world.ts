import { type Ended, Marks, type Run } from "@ultracloud/bootstrap";
import { systemClock, systemRng } from "@ultracloud/base";
import { configSchema } from "./config.ts";
import { install } from "./install.ts";

export const system = `/nix/store/${"a".repeat(32)}-system`;
export const byId = "/dev/disk/by-id/virtio-d1";

/** What a deployer answers to a machine that becomes node01, and the bundle of which it speaks. */
export async function answerOf() {
  const key = await crypto.subtle.generateKey("Ed25519", true, ["sign", "verify"]) as CryptoKeyPair;
  const publicKey = new Uint8Array(await crypto.subtle.exportKey("raw", key.publicKey)).toBase64();
  const content = new TextEncoder().encode("the bundle");
  const sha256 = new Uint8Array(await crypto.subtle.digest("SHA-256", content)).toHex();
  const signed = `ultracloud-bundle:${sha256}`;
  const signature = new Uint8Array(
    await crypto.subtle.sign("Ed25519", key.privateKey, new TextEncoder().encode(signed)),
  );
  // deno-lint-ignore no-explicit-any -- each test spoils another part of it
  const answer: any = {
    status: "enrolled",
    node: "node01",
    hostname: "node01",
    role: "worker",
    class: "worker",
    address: "10.0.0.1",
    cluster_id: "test",
    install_plan: {
      nixos_configuration: "worker",
      disko_config_path: "disks/w.nix",
      target_disk_by_id: byId,
      target_system: system,
    },
    bundle: {
      sha256,
      bytesCount: content.length,
      signature: signature.toBase64(),
      path: `/api/v1/bundle/${sha256}`,
      signed_text: signed,
    },
    bundle_public_key: publicKey,
    cache: {
      binary_cache_url: "http://127.0.0.1:1/",
      trusted_keys: ["uc-test-1:4n9lPFtb4qY4CYQKh4IHAEpyPcdlHk0Jlkq0Q6w3tC8="],
    },
  };
  return { answer, content };
}

/** A machine of fakes: programs that say what is asked of them, and a deployer that answers what the test wants. */
export async function openWorld() {
  const dir = await Deno.makeTempDir({ prefix: "uc-installer-" });
  const { answer, content } = await answerOf();
  const programs: string[] = [];
  const printed: string[] = [];
  const posted: string[] = [];
  const disk = { serial: "d1", partlabel: "", fstype: null as string | null, partitioned: false };
  const replies = new Map<string, Partial<Ended>>();
  const stop = new AbortController();

  const run: Run = (program, args, options = {}) => {
    programs.push([program, ...args].join(" "));
    if (program === "sfdisk") disk.partitioned = true;
    const reply = replies.get(program);
    if (reply !== undefined) return Promise.resolve({ code: 0, stdout: "", stderr: "", ...reply });
    options.signal?.throwIfAborted();
    let stdout = "";
    if (program === "lsblk") {
      const part = (n: number, partlabel: string) => ({
        kname: `vda${n}`,
        path: `/dev/vda${n}`,
        type: "part",
        size: 1,
        partlabel,
        fstype: disk.fstype,
      });
      const children = disk.partitioned
        ? [part(1, "uce-node01"), part(2, "ucr-node01")]
        : disk.partlabel === ""
        ? []
        : [part(1, disk.partlabel)];
      const device = {
        kname: "vda",
        path: "/dev/vda",
        type: "disk",
        size: 2 ** 32,
        serial: disk.serial,
        pttype: "gpt",
      };
      stdout = JSON.stringify({ blockdevices: [{ ...device, children }] });
    }
    if (program === "find" && args[0]!.includes("by-id")) stdout = `${byId}\t../../vda\n`;
    if (program === "cat") stdout = args[0]!.endsWith("product_serial") ? "SN-1\n" : "";
    if (program === "reboot") stop.abort();
    return Promise.resolve({ code: 0, stdout, stderr: "" });
  };

  const http = { phoneHome: (): Response => Response.json(answer), bundle: (): Response => new Response(content) };
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, async (request) => {
    const { pathname } = new URL(request.url);
    if (pathname.endsWith("/phone-home")) return http.phoneHome();
    if (pathname.includes("/bundle/")) return http.bundle();
    const { name, node } = await request.json();
    posted.push(`${name} ${node}`);
    return Response.json({});
  });
  const url = `http://127.0.0.1:${(server.addr as Deno.NetAddr).port}`;
  const config = configSchema.parse({
    targetDir: `${dir}/mnt`,
    stateDir: `${dir}/state`,
    rebootCommand: ["reboot", "-f"],
    retryMsMin: 10,
    retryMsMax: 20,
  });
  const marks = new Marks({ node: "" }, { print: (line) => printed.push(line) });
  return {
    dir,
    answer,
    http,
    disk,
    replies,
    programs,
    posted,
    stop,
    /** Names of the markers on the console, with the code of a failure. */
    shown: () =>
      printed.map((line) =>
        line.replace("ULTRACLOUD_MARKER ", "").replace(/^(\S*failed\S*) (\w+):.*$/, "$1 $2").replace(/ \/.*$/, "")
      ),
    /** Runs until the machine restarts, or until `until` says so. */
    async install(until?: () => boolean): Promise<void> {
      const deps = { run, marks, clock: systemClock, rng: systemRng, version: "0", freshId: "fresh" };
      const endMs = performance.now() + 10_000;
      const look = setInterval(() => {
        // A wait for what does not come ends in a wrong result, not in a test that never ends.
        if (until?.() || performance.now() > endMs) stop.abort();
      }, 5);
      try {
        const parameters = { deployer_url: url, bootstrap_token: "token" };
        await install(config, parameters, { ...deps, say: () => {} }, stop.signal).catch((error) => {
          if (!stop.signal.aborted) throw error;
        });
        await marks.settled();
      } finally {
        clearInterval(look);
      }
    },
    async [Symbol.asyncDispose]() {
      await server.shutdown();
      await Deno.remove(dir, { recursive: true });
    },
  };
}
