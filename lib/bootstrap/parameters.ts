import { fault } from "@ultracloud/base";
import { nodeNameSchema } from "@ultracloud/cluster-state";
import { z } from "zod";

/** Where the host of a VM with user networking is: what a machine tries that was told no deployer. */
export const fallbackDeployerUrl = "https://10.0.2.2:7152";

const httpUrl = z.url({ protocol: /^https?$/, error: "wanted http:// or https://" }).refine(
  (text) => !URL.canParse(text) || (new URL(text).username === "" && new URL(text).password === ""),
  "wanted no user in the address: it would be on every console",
);

/** The `ultracloud.*` parameters of the kernel, by their names there. */
export const parametersSchema = z.strictObject({
  deployer_url: httpUrl.default(fallbackDeployerUrl),
  // What the deployer's own check of the header takes.
  bootstrap_token: z.string().regex(/^[A-Za-z0-9._~+/=-]{1,512}$/, "wanted a token of the deployer").optional(),
  ca_cert_url: httpUrl.optional(),
  ca_sha256: z.string().regex(/^[0-9a-f]{64}$/, "wanted 64 hexadecimal digits in lower case").optional(),
  binary_cache_url: httpUrl.optional(),
  node_id: nodeNameSchema.optional(),
  hostname: z.string().regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, "wanted a host name without dots").optional(),
});
export type BootstrapParameters = z.infer<typeof parametersSchema>;

const prefix = "ultracloud.";
/** What the kernel itself takes is 2048 on most machines; a file may hold no more either. */
const cmdlineCharsMax = 16_384;

/**
 * What the kernel was started with. Words that are not of this project are passed over; a name of ours that is unknown,
 * is there twice or has a wrong value is refused, as a machine that guesses may install the wrong thing.
 */
export function parseCmdline(text: string): BootstrapParameters {
  if (text.length > cmdlineCharsMax) {
    throw fault("invalid_argument", "parameters_invalid", `Cannot read a command line of ${text.length} characters`);
  }
  const found: Record<string, string> = {};
  for (const word of text.trim().split(/\s+/)) {
    if (!word.startsWith(prefix)) continue;
    const equals = word.indexOf("=");
    const name = word.slice(prefix.length, equals < 0 ? undefined : equals);
    if (Object.hasOwn(found, name)) {
      throw fault("invalid_argument", "parameters_invalid", `Cannot use ${prefix}${name}: it is there twice`);
    }
    found[name] = equals < 0 ? "" : word.slice(equals + 1).replaceAll(/^"|"$/g, "");
  }
  const parsed = parametersSchema.safeParse(found);
  if (parsed.success) return parsed.data;
  // The values stay out of the message: one of them is the token.
  const wrong = parsed.error.issues.map(({ code, path, message, ...rest }) =>
    code === "unrecognized_keys"
      ? `${(rest as { keys?: string[] }).keys?.map((key) => prefix + key).join(", ")} is unknown`
      : `${prefix}${path.join(".")}: ${message}`
  );
  throw fault("invalid_argument", "parameters_invalid", `Cannot use the kernel's parameters: ${wrong.join("; ")}`);
}

/** The parameters as words for a kernel's command line; the other direction of `parseCmdline`. */
export function formatCmdline(parameters: Partial<BootstrapParameters>): string {
  return Object.entries(parameters).filter(([, value]) => value !== undefined).map(([name, value]) =>
    `${prefix}${name}=${value}`
  ).join(" ");
}
