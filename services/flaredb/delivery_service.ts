import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { invalidField } from "@ultracloud/base";
import { ReportDeliveriesRequestSchema, WebhookDeliveryService } from "@ultracloud/proto/flaredb/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { Databases } from "./databases.ts";
import { webhooksMax } from "./domain/bounds.ts";
import { entryKinds } from "./domain/log_entry.ts";
import { checkIndex } from "./domain/names.ts";

/** Far more than anybody waits; keeps what is stored within what timestamps hold. */
const nextTryMsMax = 8.64e15;

/** What is to be delivered, and what became of it, for the one who delivers: asked at the root. */
export function deliveryService({ databases }: { readonly databases: Databases }): BoundService {
  return bind(WebhookDeliveryService, {
    async listDeliveries({ knownRevision }) {
      await databases.system.readBarrier();
      const { webhooks } = databases.catalog;
      // One more, as none has ever been changed at 0, which is what a new deliverer knows.
      const revision = BigInt(webhooks.revision) + 1n;
      if (revision === knownRevision) return { revision, unchanged: true };
      return {
        revision,
        webhooks: webhooks.due().map((row) => ({
          id: BigInt(row.id),
          revision: BigInt(row.revision),
          database: row.database,
          name: row.name,
          url: row.url,
          tables: [...row.tables],
          secret: row.secret,
          position: BigInt(row.position),
          pendingIndex: BigInt(row.pending),
          failures: row.failures,
          ...(row.failingMs === 0 ? {} : { failingSince: timestampFromMs(row.failingMs) }),
          ...(row.nextTryMs === 0 ? {} : { nextTryTime: timestampFromMs(row.nextTryMs) }),
        })),
      };
    },
    async reportDeliveries(request, context) {
      const { length } = request.reports;
      if (length === 0 || length > webhooksMax) {
        throw invalidField("reports", `Cannot take ${length} reports: wanted 1 to ${webhooksMax}`);
      }
      request.reports.forEach(({ id, revision, position, failure }, i) => {
        checkIndex(id, `reports[${i}].id`);
        checkIndex(revision, `reports[${i}].revision`);
        checkIndex(position, `reports[${i}].position`);
        checkIndex(failure?.pendingIndex ?? 0n, `reports[${i}].failure.pending_index`);
        const seconds = failure?.nextTryTime?.seconds ?? 1n;
        if (seconds >= 1n && seconds <= BigInt(nextTryMsMax / 1_000)) return;
        throw invalidField(
          `reports[${i}].failure.next_try_time`,
          `Cannot wait until ${seconds} s: wanted a later time`,
        );
      });
      await databases.changeCatalog(entryKinds.reportDeliveries, ReportDeliveriesRequestSchema, request, context);
      return {};
    },
  }, {
    listDeliveries: { resource: "webhook", action: "deliver", scope: () => "" },
    reportDeliveries: { resource: "webhook", action: "deliver", scope: () => "" },
  });
}
