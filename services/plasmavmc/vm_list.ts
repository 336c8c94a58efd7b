import { create } from "@bufbuild/protobuf";
import { RecordCache, type StoredRecord } from "@ultracloud/platform";
import { type Vm as VmMessage, VmSchema, type VmService } from "@ultracloud/proto/plasmavmc/v1";
import type { Handlers } from "@ultracloud/rpc";
import type { Control } from "./control.ts";
import type { Vm } from "./domain/types.ts";
import { vmKind } from "./kinds.ts";
import { toVm, views } from "./wire.ts";

/**
 * The list of a project's VMs. Which VMs there are, and at which version, is asked of the store each time; what a VM's
 * record says is decoded, and made a message, once for each of its versions.
 */
export function vmList({ platform }: Pick<Control, "platform">): Pick<Handlers<typeof VmService>, "listVms"> {
  const cache = new RecordCache({}, platform);
  // As long as the cache keeps the record. Nobody changes a message that is answered.
  const messages = new WeakMap<StoredRecord<Vm>, VmMessage>();

  function messageOf(record: StoredRecord<Vm>): VmMessage {
    let message = messages.get(record);
    if (message === undefined) messages.set(record, message = create(VmSchema, toVm(record)));
    return message;
  }

  return {
    async listVms({ project, page }) {
      const found = await platform.page(vmKind, { project, page, view: views.vm, cache });
      return { vms: found.items.map(messageOf), page: { nextPageToken: found.nextPageToken } };
    },
  };
}
