import { fault } from "@ultracloud/base";
import { type EnrolledAnswer, handoverDir, lastWords, must, type Run, writeHandover } from "@ultracloud/bootstrap";
import type { InstallerConfig } from "./config.ts";
import { type Mark, markPath } from "./facts.ts";

const profile = "/nix/var/nix/profiles/system";

/** What the closure is fetched from, and by which keys it is trusted. */
export interface Cache {
  readonly url: string;
  readonly trustedKeys: readonly string[];
}

/** The cache to use: that of the kernel's parameters comes before the deployer's, the keys are the deployer's alone. */
export function cacheOf(enrolled: EnrolledAnswer, override: string | undefined): Cache {
  const url = override ?? enrolled.cache.binary_cache_url;
  const trustedKeys = enrolled.cache.trusted_keys;
  if (url === "") throw fault("failed_precondition", "no_cache", "Cannot fetch a closure: no binary cache is named");
  if (trustedKeys.length === 0) {
    throw fault("failed_precondition", "no_trusted_key", `Cannot trust ${url}: the deployer names no key`);
  }
  return { url, trustedKeys };
}

function options({ trustedKeys }: Cache): string[] {
  const values: Readonly<Record<string, string>> = {
    "trusted-public-keys": trustedKeys.join(" "),
    "substituters": "",
    "require-sigs": "true",
    "build-users-group": "",
    "extra-experimental-features": "nix-command",
    "connect-timeout": "10",
    "download-attempts": "3",
    "narinfo-cache-negative-ttl": "0",
    "narinfo-cache-positive-ttl": "0",
    "log-lines": "0",
  };
  return Object.entries(values).flatMap(([name, value]) => ["--option", name, value]);
}

/** Copies the closure into the store of the target. Nix checks hash and signature of every path as it comes. */
export async function copyClosure(
  config: InstallerConfig,
  o: { readonly cache: Cache; readonly system: string },
  run: Run,
  signal: AbortSignal,
): Promise<void> {
  const { cache, system } = o;
  // Quiet: what it says in the end goes into a marker, and is the cause.
  const args = ["copy", "--quiet", "--from", cache.url, "--to", `local?root=${config.targetDir}`, system];
  const ended = await run("nix", [...args, ...options(cache)], {
    env: nixEnv(config),
    signal: AbortSignal.any([signal, AbortSignal.timeout(config.copyTimeoutMs)]),
  });
  if (ended.code === 0) return;
  const why = lastWords(ended);
  const untrusted = /lacks a (valid )?signature|signature by a trusted key/.test(ended.stderr);
  const damaged = /hash mismatch|truncated|failed to read compressed|unexpected end|bad archive/i.test(ended.stderr);
  throw fault(
    untrusted ? "permission_denied" : "failed_precondition",
    untrusted ? "closure_untrusted" : damaged ? "closure_damaged" : "copy_failed",
    `Cannot copy ${system} from ${cache.url}: ${why}`,
  );
}

function nixEnv(config: InstallerConfig): Record<string, string> {
  return { HOME: `${config.stateDir}/nix-home` };
}

/** Makes the closure the system of the target: profile, boot loader, and what its first boot needs to know. */
export async function finishSystem(
  config: InstallerConfig,
  o: {
    readonly system: string;
    readonly cache: Cache;
    readonly enrolled: EnrolledAnswer;
    readonly hostname: string;
    readonly deployerUrl: string;
    readonly token: string | undefined;
    readonly caPem: string | undefined;
    readonly mark: Mark;
    readonly bundle: Uint8Array | undefined;
  },
  run: Run,
): Promise<void> {
  const { targetDir } = config;
  const at = (path: string) => `${targetDir}${path}`;
  const { system, enrolled } = o;
  // The mark first: from here on a disk that is found is known to be this node's, whoever made the layout.
  await Deno.mkdir(at("/boot/ultracloud"), { recursive: true });
  await Deno.writeTextFile(at(`/boot/${markPath}`), JSON.stringify(o.mark) + "\n");
  for (const dir of ["dev", "proc", "sys", "run", "tmp", "etc", "var/lib"]) {
    await Deno.mkdir(at(`/${dir}`), { recursive: true });
  }
  await writeHandover(at(handoverDir), {
    version: 1,
    node: enrolled.node,
    hostname: o.hostname,
    cluster_id: enrolled.cluster_id,
    deployer_url: o.deployerUrl,
    ...(o.caPem === undefined ? {} : { ca_pem: o.caPem }),
    ...(o.token === undefined ? {} : { bootstrap_token: o.token }),
    system,
  });
  if (o.bundle !== undefined) await Deno.writeFile(at(`${handoverDir}/bundle`), o.bundle, { mode: 0o600 });
  if (config.nixosInstall) {
    const words = ["--system", system, "--root", targetDir, "--no-channel-copy", "--no-root-passwd"];
    const from = ["--option", "substituters", o.cache.url, "--option", "trusted-public-keys"];
    await must(run, "bootloader_failed", "nixos-install", [...words, ...from, o.cache.trustedKeys.join(" ")]);
  } else await installBootloader(config, o, run);
  await must(run, "sync_failed", "sync", []);
  await must(run, "umount_failed", "umount", ["-R", targetDir]);
}

async function installBootloader(
  config: InstallerConfig,
  o: { readonly system: string; readonly cache: Cache },
  run: Run,
): Promise<void> {
  const { targetDir } = config;
  const set = ["--store", `local?root=${targetDir}`, "-p", `${targetDir}${profile}`, "--set", o.system];
  await must(run, "profile_unset", "nix-env", [...set, ...options(o.cache)], { env: nixEnv(config) });
  // What NixOS's own programs tell a NixOS root by.
  await Deno.writeTextFile(`${targetDir}/etc/NIXOS`, "");
  for (const dir of ["dev", "proc", "sys"]) {
    await must(run, "mount_failed", "mount", ["--rbind", `/${dir}`, `${targetDir}/${dir}`]);
    await must(run, "mount_failed", "mount", ["--make-rslave", `${targetDir}/${dir}`]);
  }
  await must(run, "bootloader_failed", "chroot", [targetDir, `${o.system}/bin/switch-to-configuration`, "boot"], {
    env: { NIXOS_INSTALL_BOOTLOADER: "1" },
  });
}
