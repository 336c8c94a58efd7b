import { fault } from "@ultracloud/base";
import { desiredSystemSchema, systemStates } from "@ultracloud/cluster-state";
import { z } from "zod";
import { emptyJournal, type Journal } from "./domain/journal.ts";

const trialSchema = z.strictObject({
  id: z.string(),
  intentId: z.string(),
  system: desiredSystemSchema,
  previousGeneration: z.number().int().min(0),
  previousSystem: z.string(),
  bootId: z.string(),
  rebooting: z.boolean(),
});
const journalSchema = z.strictObject({
  version: z.literal(1),
  state: z.enum(systemStates),
  reason: z.string(),
  intentId: z.string(),
  targetSystem: z.string(),
  changedMs: z.number(),
  trial: trialSchema.optional(),
  rejections: z.array(
    z.strictObject({ intentId: z.string(), targetSystem: z.string(), reason: z.string(), timeMs: z.number() }),
  ),
});

/** The journal in the file; an empty one when there is none. One that cannot be read is a failure: it may hold a trial. */
export async function readJournal(path: string): Promise<Journal> {
  let text: string;
  try {
    text = await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return emptyJournal;
    throw error;
  }
  try {
    return journalSchema.parse(JSON.parse(text)) as Journal;
  } catch (cause) {
    throw fault(
      "data_loss",
      "journal_damaged",
      `Cannot read the journal ${path}: wanted someone to look at the host and remove it`,
      { cause },
    );
  }
}

/** Puts the journal in force; it is on the disk when this answers. */
export async function writeJournal(path: string, journal: Journal): Promise<void> {
  const fresh = `${path}.new`;
  {
    using file = await Deno.open(fresh, { write: true, create: true, truncate: true, mode: 0o600 });
    const bytes = new TextEncoder().encode(JSON.stringify(journal));
    for (let at = 0; at < bytes.length;) at += await file.write(bytes.subarray(at));
    await file.sync();
  }
  await Deno.rename(fresh, path);
  using dir = await Deno.open(path.slice(0, path.lastIndexOf("/")));
  await dir.sync();
}
