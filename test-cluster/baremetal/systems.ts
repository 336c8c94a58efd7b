import { openNixBox } from "@ultracloud/testing";
import { fault } from "@ultracloud/base";
import { digestOf } from "../harness/qemu/packing.ts";
import { tool } from "../harness/tools.ts";
import type { Parts } from "./iso.ts";
import { dhcpScript } from "./live.ts";
import { bundleComponents, placementOn, programsHole } from "./programs.ts";
import { cached } from "./store.ts";
import { activateScript, switchScript, systemctlScript, systemInit } from "./target.ts";

const version = 1;
const cmdline = "console=tty0 console=ttyS0,115200 net.ifnames=0 panic=5 quiet loglevel=4";

/** What differs between two systems of the same distribution. */
export interface Variant {
  /** `bin/health`: exit code 0 means healthy. */
  readonly health?: string;
  /** Runs in each activation; a failing one fails the switch. */
  readonly activate?: string;
  /** Runs once per boot, before the agent. */
  readonly booted?: string;
  /** Instead of process 1. */
  readonly init?: string;
  /** Is put into the cache without a signature. */
  readonly unsigned?: boolean;
}

const script = (text: string) => `#!@userland@/usr/bin/busybox sh\n${text}\n`;

/** The systems of the lane, by name: two that are good, and one for each way of not being so. */
export const variants: Readonly<Record<string, Variant>> = {
  "uc-base": {},
  "uc-next": {},
  "uc-sick": { health: "echo 'disk controller missing'; exit 3" },
  "uc-unsigned": { unsigned: true },
  "uc-dead": { init: "echo 'init: this system does not start'; sleep 1; exit 1" },
  // The agent dies while its generation is on trial; the next one goes on with it.
  "uc-crash": {
    health: 'if [ ! -e /run/crashed ]; then : >/run/crashed; kill -9 "$(cat /run/nix-agent.pid)"; sleep 3; fi; exit 0',
  },
  // Long enough on trial for somebody to take the power away.
  "uc-slow": { health: "echo ULTRACLOUD_TEST slow-health >/dev/console; sleep 600" },
};

/** Systems as real signed closures, in a binary cache that a static file server can serve. */
export interface Systems {
  /** Directory of the cache. */
  readonly cacheDir: string;
  readonly publicKey: string;
  /** Store path by name of the variant. */
  readonly paths: Readonly<Record<string, string>>;
  readonly digest: string;
  readonly built: boolean;
}

/** Builds the closures in Nix's sandbox, without nixpkgs, signs and packs them; kept for the same inputs. */
export async function buildSystems(
  cacheDir: string,
  parts: Parts,
  say: (text: string) => void,
): Promise<Systems> {
  const box = await openNixBox();
  if (typeof box === "string") throw fault("failed_precondition", "nix_missing", `Cannot build the systems: ${box}`);
  const work = await Deno.makeTempDir({ prefix: "uc-systems-" });
  try {
    const runtime = `${work}/runtime`;
    await Deno.mkdir(`${runtime}/bin`, { recursive: true });
    const agentDir = "/var/lib/ultracloud/credentials";
    const programs = await bundleComponents(
      runtime,
      ["install-target", "first-boot-automation", "nix-agent"],
      (name) =>
        placementOn(name, {
          configDir: name === "nix-agent" ? `${agentDir}/nix-agent` : programsHole,
          trustFile: `${agentDir}/trust.json`,
        }),
    );
    for (const { name, flags } of programs) {
      await Deno.writeTextFile(`${runtime}/${name}.flags`, flags.join("\n") + "\n");
    }
    await Deno.writeTextFile(`${runtime}/install-target.toml`, "");
    await Deno.writeTextFile(`${runtime}/first-boot-automation.toml`, firstBootConfig);
    await Deno.writeTextFile(`${runtime}/dhcp`, dhcpScript, { mode: 0o755 });
    await Deno.writeTextFile(`${runtime}/bin/systemctl`, systemctlScript, { mode: 0o755 });
    const inputs = [
      ...[version, parts.userland.digest, parts.kernel.digest, variants, cmdline, Deno.version.deno],
      ...[activateScript, switchScript, systemctlScript, systemInit, dhcpScript, firstBootConfig],
      ...programs.flatMap(({ flags }) => flags),
      await digestOf(programs.map(({ path }) => path)),
    ];
    const { dir, digest, made } = await cached(cacheDir, "systems", inputs, async (fresh) => {
      say("building the systems of the nodes");
      const deno = await Deno.realPath(Deno.execPath());
      await Deno.copyFile(deno, `${runtime}/deno`);
      await Deno.chmod(`${runtime}/deno`, 0o755);
      const boot = `${work}/boot`;
      await Deno.mkdir(boot);
      await Deno.copyFile(`${parts.kernel.dir}/vmlinuz`, `${boot}/vmlinuz`);
      await Deno.copyFile(`${parts.kernel.dir}/initrd-disk`, `${boot}/initrd`);
      const loader = "usr/lib/systemd/boot/efi/systemd-bootx64.efi";
      await Deno.copyFile(`${parts.userland.dir}/${loader}`, `${boot}/bootx64.efi`);
      const busybox = `${work}/busybox`;
      await Deno.mkdir(busybox);
      await Deno.copyFile(`${parts.userland.dir}/usr/bin/busybox`, `${busybox}/busybox`);
      await Deno.chmod(`${busybox}/busybox`, 0o755);
      const expression = `${work}/systems.nix`;
      await Deno.writeTextFile(
        expression,
        expressionOf({ busybox, boot, runtime, userland: parts.userland.dir }),
      );
      const store = `local?root=${work}/store`;
      const built = await box.nix(
        ...["build", "--store", store, "--option", "build-hook", "", "--print-out-paths", "--no-link"],
        ...["-f", expression, ...Object.keys(variants).map((name) => `systems.${name}`)],
      );
      const found = built.trim().split("\n");
      const paths = Object.fromEntries(
        Object.keys(variants).map((name) => [name, found.find((path) => path.endsWith(`-${name}`))!]),
      );
      const secret = `${work}/secret.key`;
      const key = await box.nix("key", "generate-secret", "--key-name", "uc-lane-1");
      await Deno.writeTextFile(secret, key, { mode: 0o600 });
      await Deno.mkdir(`${fresh}/cache`);
      const to = `file://${fresh}/cache?compression=zstd&compression-level=3&parallel-compression=true`;
      const signed = Object.entries(variants).filter(([, { unsigned }]) => unsigned !== true).map(([name]) =>
        paths[name]!
      );
      await box.nix("copy", "--from", store, "--to", `${to}&secret-key=${secret}`, ...signed);
      // What it shares with the others is in the cache, signed: only the system itself lacks its signature.
      for (const [name, { unsigned }] of Object.entries(variants)) {
        if (unsigned) await box.nix("copy", "--from", store, "--to", to, paths[name]!);
      }
      const publicKey = await publicKeyOf(box.binDir, key);
      await Deno.writeTextFile(`${fresh}/systems.json`, JSON.stringify({ publicKey, paths }, null, 2) + "\n");
    });
    const index = JSON.parse(await Deno.readTextFile(`${dir}/systems.json`)) as Pick<Systems, "publicKey" | "paths">;
    return { ...index, cacheDir: `${dir}/cache`, digest, built: made };
  } finally {
    await tool(["chmod", "-R", "u+w", work]);
    await tool(["rm", "-rf", work]);
  }
}

const firstBootConfig = `agents = ["nix-agent"]
retryMsMin = 1000
retryMsMax = 10000

[agent]
launcher = "setsid"
markers = true
pollMs = 2000
retryMs = 4000
`;

async function publicKeyOf(binDir: string, secret: string): Promise<string> {
  const child = new Deno.Command(`${binDir}/nix`, {
    args: ["key", "convert-secret-to-public"],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(secret));
  await writer.close();
  return new TextDecoder().decode((await child.output()).stdout).trim();
}

/** Text as a Nix string that means itself. */
function quoted(text: string): string {
  return `"${text.replaceAll(/["\\]|\$\{/g, (found) => `\\${found}`).replaceAll("\n", "\\n")}"`;
}

/** One attribute for each system; the parts they share are paths of their own. */
function expressionOf(at: Readonly<Record<"busybox" | "boot" | "runtime" | "userland", string>>): string {
  const files = (name: string, variant: Variant): Readonly<Record<string, string>> => ({
    "init": variant.init === undefined ? systemInit : script(variant.init),
    "activate": activateScript,
    "hooks/activate": script(variant.activate ?? ":"),
    "hooks/booted": script(variant.booted ?? ":"),
    "bin/health": script(variant.health ?? "exit 0"),
    "bin/switch-to-configuration": switchScript,
    "name": `${name}\n`,
  });
  const systems = Object.entries(variants).map(([name, variant]) => {
    const texts = Object.entries(files(name, variant));
    const attributes = texts.map(([, text], i) => `f${i} = fill ${quoted(name)} ${quoted(text)};`).join(" ");
    const writes = texts.map(([path], i) =>
      `bb printf '%s' "$f${i}" | bb sed "s|@out@|$out|g" > $out/${path}; bb chmod 755 $out/${path};`
    ).join(" ");
    return `${quoted(name)} = derivation (base // { name = ${quoted(name)}; ${attributes} args = run ${
      quoted(`bb mkdir -p $out/bin $out/hooks; ${writes}`)
    }; });`;
  });
  return `let
  busybox = builtins.path { path = ${at.busybox}; name = "busybox"; };
  userland = builtins.path { path = ${at.userland}; name = "ultracloud-userland"; };
  runtime = builtins.path { path = ${at.runtime}; name = "ultracloud-runtime"; };
  boot = builtins.path { path = ${at.boot}; name = "ultracloud-boot"; };
  base = { system = "x86_64-linux"; builder = "\${busybox}/busybox"; };
  run = script: [ "sh" "-euc" ("bb() { \${busybox}/busybox \\"$@\\"; }; " + script) ];
  fill = name: builtins.replaceStrings
    [ "@userland@" "@runtime@" "@boot@" "@name@" "@cmdline@" ]
    [ "\${userland}" "\${runtime}" "\${boot}" name ${quoted(cmdline)} ];
in { systems = { ${systems.join("\n")} }; }
`;
}
