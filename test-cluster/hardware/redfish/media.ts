import { Fault, fault } from "@ultracloud/base";
import { type Redfish, type Resource, textOf } from "./client.ts";
import type { MediaSlot } from "./discover.ts";

/** What a drive holds, its maker's habits taken out. */
export interface MediaState {
  readonly inserted: boolean;
  /** The image in the drive; some BMCs go on naming the last one after it was ejected. */
  readonly image: string | undefined;
}

/** A BMC that says yes attaches the image within seconds, or never. */
const attachTimeoutMsDefault = 15_000;
const attachPollMs = 500;
/** Success without an attached image happens; more than twice in a row is a fault of the image or its URL. */
const insertTries = 3;

/** `ConnectedVia: NotConnected` is an empty drive whatever `Image` says, and so is `Inserted: false`. */
export function stateOf(media: Resource): MediaState {
  const image = textOf(media, "Image") || textOf(media, "ImageName") || undefined;
  const empty = media["Inserted"] === false || textOf(media, "ConnectedVia") === "NotConnected";
  return { inserted: !empty && (media["Inserted"] === true || image !== undefined), image };
}

export async function readMedia(redfish: Redfish, slot: MediaSlot): Promise<MediaState> {
  return stateOf(await redfish.get(slot.path));
}

export interface InsertOptions {
  /** Where the BMC itself fetches the image. */
  readonly image: string;
  /** Images of earlier runs of ours, which may be taken out without asking. */
  readonly ours: (image: string) => boolean;
  /** How long an accepted image may take to show. */
  readonly attachTimeoutMs?: number;
  readonly say: (line: string) => void;
}

/**
 * Puts the image into the first drive that takes it and answers that drive; the drive was read again and holds it.
 * Faults: `bmc_media_taken` (every drive holds something of somebody else), `bmc_media_not_attached` (the BMC said yes
 * and nothing was attached), or the refusal of the last drive.
 */
export async function insertMedia(
  redfish: Redfish,
  slots: readonly MediaSlot[],
  options: InsertOptions,
): Promise<MediaSlot> {
  let refusal: unknown;
  const taken: string[] = [];
  for (const slot of slots) {
    const before = await readMedia(redfish, slot);
    if (before.inserted) {
      if (before.image === undefined || !options.ours(before.image)) {
        taken.push(`${slot.path} (${before.image ?? "an unnamed image"})`);
        continue;
      }
      options.say(`${slot.path} holds an image of an earlier run: ejecting it`);
      await ejectMedia(redfish, slot);
    }
    try {
      await fill(redfish, slot, options);
      return slot;
    } catch (error) {
      if (!(error instanceof Fault) || redfish.signal?.aborted || error.code === "bmc_denied") throw error;
      options.say(`${slot.path}: ${error.message}`);
      refusal = error;
    }
  }
  if (refusal !== undefined) throw refusal;
  throw fault(
    "failed_precondition",
    "bmc_media_taken",
    `Cannot insert the image as all drives are taken: ${taken.join(", ")}`,
  );
}

async function fill(redfish: Redfish, slot: MediaSlot, options: InsertOptions): Promise<void> {
  const { image, say } = options;
  for (let attempt = 1; attempt <= insertTries; attempt++) {
    await callInsert(redfish, slot, image);
    if (await becomes(redfish, slot, (state) => state.inserted, options.attachTimeoutMs)) return;
    say(`${slot.path}: the BMC answered success without an attached image (${attempt} of ${insertTries})`);
  }
  throw fault(
    "failed_precondition",
    "bmc_media_not_attached",
    `Cannot attach the image at ${slot.path}: the BMC accepted it ${insertTries} times and attached nothing; ` +
      "wanted a URL that the BMC's own network reaches",
  );
}

/** Older BMCs refuse parameters they do not know; the image alone is understood by all. */
async function callInsert(redfish: Redfish, slot: MediaSlot, image: string): Promise<void> {
  const protocol = new URL(image).protocol.replace(":", "").toUpperCase();
  const whole = {
    Image: image,
    Inserted: true,
    WriteProtected: true,
    ...(slot.transferMethods.includes("Stream") ? { TransferMethod: "Stream" } : {}),
    ...(slot.transferProtocols.includes(protocol) ? { TransferProtocolType: protocol } : {}),
  };
  try {
    await redfish.post(slot.insertPath, whole);
  } catch (error) {
    if (!(error instanceof Fault) || error.detail.metadata?.status !== "400") throw error;
    await redfish.post(slot.insertPath, { Image: image });
  }
}

/** Empties a drive and reads that it is empty; one that is empty stays so. */
export async function ejectMedia(redfish: Redfish, slot: MediaSlot): Promise<void> {
  if (!(await readMedia(redfish, slot)).inserted) return;
  if (slot.ejectPath !== undefined) await redfish.post(slot.ejectPath, {});
  else await redfish.patch(slot.path, { Image: null, Inserted: false });
  if (await becomes(redfish, slot, (state) => !state.inserted)) return;
  throw fault("failed_precondition", "bmc_media_stays", `Cannot eject ${slot.path}: the BMC accepted it and it stays`);
}

async function becomes(
  redfish: Redfish,
  slot: MediaSlot,
  wanted: (state: MediaState) => boolean,
  timeoutMs = attachTimeoutMsDefault,
): Promise<boolean> {
  const end = redfish.clock.monotonicMs() + timeoutMs;
  for (;;) {
    if (wanted(await readMedia(redfish, slot))) return true;
    if (redfish.clock.monotonicMs() >= end) return false;
    await redfish.clock.sleep(attachPollMs, redfish.signal);
  }
}
