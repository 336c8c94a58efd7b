import { fault } from "@ultracloud/base";
import { z } from "zod";

/** Directory of an installed system in which installer and first boot leave what the next one needs. */
export const handoverDir = "/var/lib/ultracloud/bootstrap";
/** File of that directory with what the installer knew. Only root reads it: the token is in it. */
export const handoverFile = "handover.json";

const handoverSchema = z.strictObject({
  version: z.literal(1),
  node: z.string().regex(/^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/),
  hostname: z.string().max(63),
  cluster_id: z.string().min(1).max(63),
  deployer_url: z.url(),
  ca_pem: z.string().max(64 * 1024).optional(),
  /** Absent once the node has credentials of its own. */
  bootstrap_token: z.string().max(512).optional(),
  /** The closure that was installed. */
  system: z.string().startsWith("/nix/store/"),
});

/** What the installer hands over to the system it installed. */
export type Handover = z.infer<typeof handoverSchema>;

export async function readHandover(dir: string): Promise<Handover> {
  const path = `${dir}/${handoverFile}`;
  let text: string;
  try {
    text = await Deno.readTextFile(path);
  } catch (cause) {
    throw fault("failed_precondition", "handover_missing", `Cannot read ${path}: wanted what the installer left`, {
      cause,
    });
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    // The schema says that it is nothing.
  }
  const parsed = handoverSchema.safeParse(json);
  if (parsed.success) return parsed.data;
  throw fault("data_loss", "handover_invalid", `Cannot use ${path}: ${z.prettifyError(parsed.error)}`);
}

/** Readers see the old one or the whole new one, also after a power cut. */
export async function writeHandover(dir: string, handover: Handover): Promise<void> {
  await Deno.mkdir(dir, { recursive: true, mode: 0o700 });
  await writeWhole(`${dir}/${handoverFile}`, JSON.stringify(handoverSchema.parse(handover), null, 2) + "\n");
}

/** Writes a private file so that it is there whole or not at all, also after a power cut. */
export async function writeWhole(path: string, text: string): Promise<void> {
  {
    using file = await Deno.open(`${path}.new`, { write: true, create: true, truncate: true, mode: 0o600 });
    const bytes = new TextEncoder().encode(text);
    for (let at = 0; at < bytes.length;) at += await file.write(bytes.subarray(at));
    await file.sync();
  }
  await Deno.rename(`${path}.new`, path);
  using dir = await Deno.open(path.slice(0, path.lastIndexOf("/")));
  await dir.sync();
}
