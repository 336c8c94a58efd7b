export * from "../gen/ultracloud/common/v1/common_pb.ts";
