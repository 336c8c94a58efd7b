import type { Client } from "@connectrpc/connect";
import { fault } from "@ultracloud/base";
import { packMessage, type Saga } from "@ultracloud/platform";
import type { FetchService } from "@ultracloud/proto/fetcher/v1";
import { ImageSchema } from "@ultracloud/proto/plasmavmc/v1";
import { typed } from "./calls.ts";
import type { Control } from "./control.ts";
import type { ImageFormat } from "./domain/types.ts";
import type { ImageEngine } from "./image_engine.ts";
import { dropImage, type ImageOptions, storeImage } from "./image_store.ts";
import { imageKind } from "./kinds.ts";
import { toImage } from "./wire.ts";

/** Who may connect to the internet. */
export type Fetcher = Pick<Client<typeof FetchService>, "fetch">;

export interface FetchData {
  readonly name: string;
  readonly url: string;
  readonly format: ImageFormat;
  /** Empty: the content is what its server says, by TLS. */
  readonly sha256: string;
  readonly labels: Readonly<Record<string, string>>;
}

/** As long as a large image takes over a thin line. */
const fetchTimeoutMs = 3_600_000;

/** The content of a URL becomes an image; the operation's target is the image to be. */
export function fetchSaga(control: Control, o: ImageOptions, engine: ImageEngine, fetcher?: Fetcher): Saga<FetchData> {
  const { platform } = control;
  return {
    kind: "image.fetch",
    cancellable: true,
    steps: [{
      title: "Fetching the image",
      timeoutMs: fetchTimeoutMs,
      async do({ data, operation, signal, report }) {
        // Stored by a process that died before it could say so.
        if (await platform.findById(imageKind, operation.target.id)) return;
        if (!fetcher) throw fault("failed_precondition", "no_fetcher", "Cannot fetch an image: wanted peers.fetcher");
        const { url, sha256, name, format, labels } = data;
        const request = { url, bytesMax: BigInt(o.bytesMax), allowPlain: sha256 !== "" };
        const stream = fetcher.fetch(request, { signal, timeoutMs: fetchTimeoutMs });
        const chunks = (async function* () {
          let total = 0;
          let seen = 0;
          for await (const { part } of stream) {
            if (part.case === "head") total = Number(part.value.bytes);
            if (part.case !== "chunk") continue;
            seen += part.value.length;
            yield part.value;
            if (total > 0) await report(Math.min(1, seen / total));
          }
        })();
        const { project, target } = operation;
        const fresh = { project, name, labels, format, sha256, bytes: 0, id: target.id };
        await typed(storeImage(platform, engine, o, fresh, chunks));
      },
      // A cancel may come when it is stored already.
      undo: ({ operation }) => dropImage(platform, engine, operation.target.id),
    }],
    async finish(tx, _data, operation) {
      const image = await tx.findById(imageKind, operation.target.id);
      return image && packMessage(ImageSchema, toImage(image));
    },
  };
}
