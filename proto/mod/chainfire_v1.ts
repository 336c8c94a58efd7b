export * from "../gen/ultracloud/chainfire/v1/chainfire_pb.ts";
