import { Fault } from "@ultracloud/base";
import type { BootstrapParameters } from "@ultracloud/bootstrap";
import { formatCmdline, parametersSchema } from "@ultracloud/bootstrap";
import { type BmcAddress, type Credentials, openTransport } from "../redfish/mod.ts";
import type { Inputs } from "./inputs.ts";
import { judgeIso } from "./site_iso.ts";
import { judgeStick } from "./usb.ts";

/** An input that is absent or cannot be used, and what would do. */
export interface Missing {
  readonly input: string;
  readonly reason: string;
}

export interface BmcPlan {
  readonly kind: "redfish";
  readonly address: BmcAddress;
  readonly credentials: Credentials;
  readonly auth: "session" | "basic";
  readonly system: string | undefined;
  readonly attachTimeoutMs: number;
  /** Served from here, or fetched from elsewhere. */
  readonly image: { readonly serve: string } | { readonly url: string };
}

export interface UsbPlan {
  readonly kind: "usb";
  readonly device: string;
}

/** Everything that a run needs, read and checked; secrets are here and nowhere else. */
export interface Plan {
  readonly node: string;
  readonly token: string;
  readonly parameters: Partial<BootstrapParameters>;
  readonly iso: string;
  /** Undefined when they were built into the image. */
  readonly cmdline: string | undefined;
  readonly transport: BmcPlan | UsbPlan;
  readonly serialLog: string | undefined;
  readonly ucContext: string | undefined;
  readonly markerTimeoutMs: number;
}

const markerTimeoutSecondsDefault = 1_200;
const attachSecondsDefault = 15;
const secretBytesMax = 64 * 1024;

/** What the operator gave, judged as a whole: every lack is told at once, not one a run. */
export async function judgeInputs(inputs: Inputs): Promise<{ readonly plan?: Plan; readonly missing: Missing[] }> {
  const missing: Missing[] = [];
  const lack = (input: string, reason: string) => void missing.push({ input, reason });
  const need = (name: keyof Inputs, reason: string) => {
    if (inputs[name] === undefined) lack(`--${name}`, reason);
    return inputs[name] ?? "";
  };

  need("deployer-url", "wanted the URL of the deployer's bootstrap listener as the machine reaches it");
  const node = need("node", "wanted the name of the node in the cluster state");
  const token = (await secretFile(inputs["token-file"], "--token-file", "the node's one-shot token", lack))?.trim() ??
    "";
  if (inputs["ca-cert-url"] !== undefined) need("ca-sha256", "wanted the SHA-256 that pins the CA of --ca-cert-url");
  const parameters = parametersOf(inputs, token, lack);

  const baked = inputs["iso-parameters"] === "baked";
  if (!["site", "baked", undefined].includes(inputs["iso-parameters"])) {
    lack("--iso-parameters", `${inputs["iso-parameters"]} is unknown: wanted site or baked`);
  }
  const iso = need("iso", "wanted the installer image");
  const wrongIso = iso === "" ? undefined : await judgeIso(iso, !baked);
  if (wrongIso !== undefined) lack("--iso", wrongIso);

  const transport = await transportOf(inputs, iso, baked, lack);
  if (inputs["serial-log"] === undefined && inputs["uc-context"] === undefined) {
    lack("--serial-log or --uc-context", "wanted a place where the machine's markers can be read");
  }
  const markerTimeoutMs = secondsOf(inputs, "timeout-seconds", markerTimeoutSecondsDefault, lack);
  if (missing.length > 0 || transport === undefined || parameters === undefined) return { missing };
  return {
    missing,
    plan: {
      node,
      token,
      parameters,
      iso,
      cmdline: baked ? undefined : formatCmdline(parameters),
      transport,
      serialLog: inputs["serial-log"],
      ucContext: inputs["uc-context"],
      markerTimeoutMs,
    },
  };
}

type Lack = (input: string, reason: string) => void;

/** Milliseconds of an input in seconds. */
function secondsOf(inputs: Inputs, name: keyof Inputs, usual: number, lack: Lack): number {
  const seconds = Number(inputs[name] ?? usual);
  if (Number.isInteger(seconds) && seconds >= 1 && seconds <= 86_400) return seconds * 1000;
  lack(`--${name}`, `${inputs[name]} is no number of seconds from 1 to 86400`);
  return usual * 1000;
}

/** The kernel's parameters by the schema of the installer itself, so that what is written is what it takes. */
function parametersOf(inputs: Inputs, token: string, lack: Lack): Partial<BootstrapParameters> | undefined {
  const given = {
    deployer_url: inputs["deployer-url"],
    bootstrap_token: token === "" ? undefined : token,
    ca_cert_url: inputs["ca-cert-url"],
    ca_sha256: inputs["ca-sha256"],
    binary_cache_url: inputs["binary-cache-url"],
    node_id: inputs["node"],
    hostname: inputs["hostname"],
  };
  const present = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  const parsed = parametersSchema.safeParse(present);
  if (parsed.success) return present;
  // The values stay out of the message: one of them is the token.
  for (const { path, message } of parsed.error.issues) lack(`ultracloud.${path.join(".")}`, message);
  return undefined;
}

async function transportOf(
  inputs: Inputs,
  iso: string,
  baked: boolean,
  lack: Lack,
): Promise<BmcPlan | UsbPlan | undefined> {
  const { "usb-device": device, "bmc-url": url } = inputs;
  if (device === undefined && url === undefined) {
    lack("--usb-device or --bmc-url", "wanted a stick to write, or the https URL of the machine's BMC");
    // What the second way would need besides.
    if (inputs["bmc-credentials-file"] === undefined) {
      lack("--bmc-credentials-file", "wanted with --bmc-url: a JSON file with username and password, mode 0600");
    }
    return undefined;
  }
  if (device !== undefined && url !== undefined) {
    lack("--usb-device, --bmc-url", "wanted one of the two");
    return undefined;
  }
  if (device !== undefined) {
    const wrong = await judgeStick(device, inputs["usb-confirm"], iso);
    if (wrong !== undefined) lack("--usb-device", wrong);
    return wrong === undefined ? { kind: "usb", device } : undefined;
  }
  return await bmcOf(inputs, url!, baked, lack);
}

async function bmcOf(inputs: Inputs, url: string, baked: boolean, lack: Lack): Promise<BmcPlan | undefined> {
  const credentials = await credentialsOf(inputs["bmc-credentials-file"], lack);
  const caFile = inputs["bmc-ca-file"];
  const caPem = caFile === undefined ? undefined : await Deno.readTextFile(caFile).catch((error: Error) => {
    lack("--bmc-ca-file", `${caFile} cannot be read: ${error.message}`);
    return undefined;
  });
  const address: BmcAddress = {
    url,
    ...(caPem === undefined ? {} : { caPem }),
    ...(inputs["bmc-fingerprint"] === undefined ? {} : { fingerprint: inputs["bmc-fingerprint"] }),
    ...(inputs["bmc-server-name"] === undefined ? {} : { serverName: inputs["bmc-server-name"] }),
  };
  let usable = caFile === undefined || caPem !== undefined;
  try {
    if (usable) openTransport(address);
  } catch (error) {
    usable = false;
    const input = error instanceof Fault && error.code === "bmc_unpinned"
      ? "--bmc-ca-file or --bmc-fingerprint"
      : "--bmc-url";
    lack(input, error instanceof Fault ? error.message : `${url.slice(0, 80)} is no URL`);
  }
  const auth = inputs["bmc-auth"] ?? "session";
  if (auth !== "session" && auth !== "basic") lack("--bmc-auth", `${auth} is unknown: wanted session or basic`);
  const attachMs = secondsOf(inputs, "attach-seconds", attachSecondsDefault, lack);
  const { serve, "iso-url": isoUrl } = inputs;
  if (serve === undefined && isoUrl === undefined) {
    lack(
      "--serve or --iso-url",
      "wanted the host:port on which the BMC fetches the image from here, or its URL elsewhere",
    );
  }
  if (serve !== undefined && isoUrl !== undefined) lack("--serve, --iso-url", "wanted one of the two");
  if (isoUrl !== undefined && !baked) {
    lack("--iso-url", "what is fetched elsewhere cannot be given parameters: wanted --iso-parameters baked with it");
  }
  if (isoUrl !== undefined && !/^https?:\/\/./.test(isoUrl)) lack("--iso-url", "wanted an http or https URL");
  const image = serve !== undefined ? { serve } : isoUrl !== undefined ? { url: isoUrl } : undefined;
  if (credentials === undefined || image === undefined || !usable) return undefined;
  return {
    kind: "redfish",
    address,
    credentials,
    auth: auth === "basic" ? "basic" : "session",
    system: inputs["bmc-system"],
    attachTimeoutMs: attachMs,
    image,
  };
}

async function credentialsOf(file: string | undefined, lack: Lack): Promise<Credentials | undefined> {
  const text = await secretFile(file, "--bmc-credentials-file", "username and password of the BMC", lack);
  if (text === undefined) return undefined;
  try {
    const { username, password } = JSON.parse(text) as Record<string, unknown>;
    if (typeof username === "string" && username !== "" && typeof password === "string" && password !== "") {
      return { username, password };
    }
  } catch {
    // Said below, without what the file holds.
  }
  lack("--bmc-credentials-file", `${file} is not JSON with the texts username and password`);
  return undefined;
}

/** Text of a file that only its owner reads. */
async function secretFile(
  path: string | undefined,
  input: string,
  what: string,
  lack: Lack,
): Promise<string | undefined> {
  if (path === undefined) {
    lack(input, `wanted a file with ${what}, mode 0600`);
    return undefined;
  }
  try {
    const { mode, size, isFile } = await Deno.stat(path);
    if (!isFile || size === 0 || size > secretBytesMax) {
      lack(input, `${path} is no file of 1 to ${secretBytesMax} bytes`);
    } else if (mode !== null && (mode & 0o077) !== 0) {
      lack(input, `${path} can be read by others (mode ${(mode & 0o777).toString(8)}): wanted chmod 600`);
    } else return await Deno.readTextFile(path);
  } catch (error) {
    lack(input, `${path} cannot be read: ${error instanceof Error ? error.message : error}`);
  }
  return undefined;
}
