import { create, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { RecordCache, type StoredRecord } from "@ultracloud/platform";
import { ListVmsResponseSchema, type Vm as VmMessage, VmSchema, type VmService } from "@ultracloud/proto/plasmavmc/v1";
import type { Handlers } from "@ultracloud/rpc";
import type { Control } from "./control.ts";
import type { Vm } from "./domain/types.ts";
import { vmKind } from "./kinds.ts";
import { toVm, views } from "./wire.ts";

const listField = ListVmsResponseSchema.field.vms.number;

/** What `make` makes of a record, once for as long as the cache keeps it. Nobody changes what is answered. */
function once<T extends object>(make: (record: StoredRecord<Vm>) => T): (record: StoredRecord<Vm>) => T {
  const made = new WeakMap<StoredRecord<Vm>, T>();
  return (record) => {
    let known = made.get(record);
    if (known === undefined) made.set(record, known = make(record));
    return known;
  };
}

/**
 * The list of a project's VMs. Which VMs there are, and at which version, is asked of the store each time; what a VM's
 * record says is decoded, and made a message or its bytes, once for each of its versions.
 */
export function vmList({ platform }: Pick<Control, "platform">): Pick<Handlers<typeof VmService>, "listVms"> {
  const cache = new RecordCache({}, platform);
  const messageOf = once((record): VmMessage => create(VmSchema, toVm(record)));
  const bytesOf = once((record) => new BinaryWriter().bytes(toBinary(VmSchema, messageOf(record))).finish());

  return {
    async listVms({ project, page }, context) {
      const found = await platform.page(vmKind, { project, page, view: views.vm, cache });
      const end = { page: { nextPageToken: found.nextPageToken } };
      if (context.requestHeader.get("content-type") !== "application/proto") {
        return { vms: found.items.map(messageOf), ...end };
      }
      // What is written as it stands is what protobuf calls unknown: whoever reads the answer knows the field.
      const answer = create(ListVmsResponseSchema, end);
      answer.$unknown = found.items.map((record) => ({
        no: listField,
        wireType: WireType.LengthDelimited,
        data: bytesOf(record),
      }));
      return answer;
    },
  };
}
