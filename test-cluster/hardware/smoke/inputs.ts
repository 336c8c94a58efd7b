import { fault } from "@ultracloud/base";
import { parseWords } from "../../harness/words.ts";

/** Every input with what it is; `--name value`, or `ULTRACLOUD_SMOKE_NAME` in the environment. */
export const inputTexts = {
  "deployer-url": "bootstrap listener of the deployer as the machine reaches it, https://host:7152",
  "token-file": "file with the node's one-shot token, mode 0600",
  "node": "name of the node in the cluster state: the token is bound to it",
  "hostname": "host name, where it is not the node's name",
  "ca-cert-url": "where the machine fetches the deployer's CA",
  "ca-sha256": "SHA-256 of that CA (`uc deployer status -o wide`)",
  "binary-cache-url": "binary cache as the machine reaches it",
  "iso": "the installer image",
  "iso-parameters": "site: written into the image while it is served (default); baked: it was built with them",
  "usb-device": "stick to write, /dev/disk/by-id/usb-...",
  "usb-confirm": "the same path again: everything on the stick is lost",
  "bmc-url": "https://host of the BMC",
  "bmc-credentials-file": 'JSON file {"username", "password"}, mode 0600',
  "bmc-ca-file": "PEM of the BMC's CA or of its own certificate",
  "bmc-fingerprint": "SHA-256 of the BMC's certificate instead of a CA",
  "bmc-server-name": "name in the BMC's certificate, where it is not the host",
  "bmc-system": "which system, where the BMC has several",
  "bmc-auth": "session (default) or basic",
  "attach-seconds": "how long the BMC may take to show an image that it accepted (15)",
  "serve": "host:port on which this machine serves the image to the BMC",
  "iso-url": "where the BMC fetches the image instead, with its parameters baked in",
  "serial-log": "file that the machine's serial line is written to",
  "uc-context": "context of uc that may read the node's record at the deployer",
  "timeout-seconds": "how long the next marker may take (1200)",
  "run": "capture: which run (latest)",
} as const;
export type InputName = keyof typeof inputTexts;
export type Inputs = Readonly<Partial<Record<InputName, string>>>;

/** Switches without a value. */
const switches = ["keep-media"] as const;

export interface Words {
  readonly command: string | undefined;
  readonly inputs: Inputs;
  /** Leave the image in the drive at the end. */
  readonly keepMedia: boolean;
}

/** Names that would put a secret where every process of the host reads it. */
const secrets: Readonly<Record<string, string>> = {
  "token": "token-file",
  "bootstrap-token": "token-file",
  "bmc-password": "bmc-credentials-file",
  "bmc-credentials": "bmc-credentials-file",
};

/** Takes a command line and the environment apart. Flags win. */
export function readInputs(argv: readonly string[], env: (name: string) => string | undefined): Words {
  const keepMedia = argv.includes("--keep-media");
  const { plain, options } = parseWords(argv.filter((word) => word !== "--" && word !== "--keep-media"));
  for (const name of Object.keys(options)) {
    const instead = secrets[name];
    if (instead !== undefined) {
      throw fault(
        "invalid_argument",
        "usage",
        `Cannot take --${name} as every process of this host would read it: wanted --${instead}`,
      );
    }
    if (!(name in inputTexts)) {
      const known = [...Object.keys(inputTexts), ...switches].map((known) => `--${known}`).join(", ");
      throw fault("invalid_argument", "usage", `Cannot use --${name}: wanted one of ${known}`);
    }
  }
  if (plain.length > 1) throw fault("invalid_argument", "usage", `Cannot use ${plain.slice(1).join(" ")}`);
  const inputs: Partial<Record<InputName, string>> = {};
  for (const name of Object.keys(inputTexts) as InputName[]) {
    const value = options[name] ?? env(`ULTRACLOUD_SMOKE_${name.replaceAll("-", "_").toUpperCase()}`);
    if (value !== undefined && value !== "") inputs[name] = value;
  }
  return { command: plain[0], inputs, keepMedia };
}
