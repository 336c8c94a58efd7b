import type { DescMethodUnary, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import type { UnaryWire } from "@ultracloud/rpc";
import { failureResponse, type Numbering } from "./errors.ts";
import { type Json, readObject } from "./json_read.ts";

/** A path of etcd that is one RPC of ours in other words. */
export interface UnaryPath {
  readonly method: DescMethodUnary;
  readonly wire: UnaryWire;
}

/** Ties a path to its RPC. */
export function unaryPath<M extends DescMethodUnary>(
  method: M,
  decode: (json: Json) => MessageShape<M["input"]>,
  encode: (answer: MessageInitShape<M["output"]>) => string,
  numbering?: Numbering,
): UnaryPath {
  return {
    method,
    wire: {
      contentType: "application/json",
      decode: (body) => decode(readObject(body)),
      encode: (output) => encode(output as MessageInitShape<M["output"]>),
      failure: (error, { requestId }) => failureResponse(error, numbering, requestId),
    },
  };
}
