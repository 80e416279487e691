//! Functions that exist and say `CUDA_ERROR_NOT_SUPPORTED`.
//!
//! They are exported so that a program that looks them up finds them and is answered, as by a driver that
//! lacks the feature. They take whatever arguments they are called with and touch none.

use crate::driver::status::Status;
use crate::driver::{Symbol, guard};

macro_rules! unsupported {
    ($($name:ident),* $(,)?) => {
        $(
            #[unsafe(no_mangle)]
            pub extern "C" fn $name() -> u32 {
                guard(stringify!($name), || Err(Status::NOT_SUPPORTED))
            }
        )*

        pub(in crate::driver) static SYMBOLS: &[Symbol] =
            &[$(Symbol { name: stringify!($name), address: $name as *const () }),*];
    };
}

#[rustfmt::skip]
unsupported! {
    // Of today's interface: arrays, textures and surfaces, graphics, other processes and devices, external
    // memory, virtual memory management, linking, green contexts, memory operations of streams, tensor maps.
    cuArray3DCreate_v2, cuArray3DGetDescriptor_v2, cuArrayCreate_v2, cuArrayDestroy,
    cuArrayGetDescriptor_v2, cuArrayGetMemoryRequirements, cuArrayGetPlane, cuArrayGetSparseProperties,
    cuCheckpointProcessCheckpoint, cuCheckpointProcessGetRestoreThreadId, cuCheckpointProcessGetState,
    cuCheckpointProcessLock, cuCheckpointProcessRestore, cuCheckpointProcessUnlock, cuCoredumpGetAttribute,
    cuCoredumpGetAttributeGlobal, cuCoredumpSetAttribute, cuCoredumpSetAttributeGlobal, cuCtxFromGreenCtx,
    cuCtxGetDevResource, cuCtxGetExecAffinity, cuCtxRecordEvent, cuCtxWaitEvent, cuDestroyExternalMemory,
    cuDestroyExternalSemaphore, cuDevResourceGenerateDesc, cuDevSmResourceSplitByCount,
    cuDeviceGetDevResource, cuDeviceGetExecAffinitySupport, cuDeviceGetGraphMemAttribute, cuDeviceGetLuid,
    cuDeviceGetNvSciSyncAttributes, cuDeviceGetP2PAttribute, cuDeviceGetTexture1DLinearMaxWidth,
    cuDeviceGraphMemTrim, cuDeviceRegisterAsyncNotification, cuDeviceSetGraphMemAttribute,
    cuDeviceUnregisterAsyncNotification, cuExternalMemoryGetMappedBuffer,
    cuExternalMemoryGetMappedMipmappedArray, cuFlushGPUDirectRDMAWrites, cuGetExportTable,
    cuGraphAddBatchMemOpNode, cuGraphAddDependencies_v2, cuGraphAddEventRecordNode, cuGraphAddEventWaitNode,
    cuGraphAddExternalSemaphoresSignalNode, cuGraphAddExternalSemaphoresWaitNode, cuGraphAddMemAllocNode,
    cuGraphAddMemFreeNode, cuGraphAddMemcpyNode, cuGraphAddNode, cuGraphAddNode_v2,
    cuGraphBatchMemOpNodeGetParams, cuGraphBatchMemOpNodeSetParams, cuGraphChildGraphNodeGetGraph,
    cuGraphConditionalHandleCreate, cuGraphDebugDotPrint, cuGraphDestroyNode,
    cuGraphEventRecordNodeGetEvent, cuGraphEventRecordNodeSetEvent, cuGraphEventWaitNodeGetEvent,
    cuGraphEventWaitNodeSetEvent, cuGraphExecBatchMemOpNodeSetParams, cuGraphExecChildGraphNodeSetParams,
    cuGraphExecEventRecordNodeSetEvent, cuGraphExecEventWaitNodeSetEvent,
    cuGraphExecExternalSemaphoresSignalNodeSetParams, cuGraphExecExternalSemaphoresWaitNodeSetParams,
    cuGraphExecMemcpyNodeSetParams, cuGraphExecNodeSetParams, cuGraphExternalSemaphoresSignalNodeGetParams,
    cuGraphExternalSemaphoresSignalNodeSetParams, cuGraphExternalSemaphoresWaitNodeGetParams,
    cuGraphExternalSemaphoresWaitNodeSetParams, cuGraphGetEdges_v2, cuGraphHostNodeGetParams,
    cuGraphHostNodeSetParams, cuGraphKernelNodeCopyAttributes, cuGraphKernelNodeGetAttribute,
    cuGraphKernelNodeGetParams_v2, cuGraphKernelNodeSetAttribute, cuGraphMemAllocNodeGetParams,
    cuGraphMemFreeNodeGetParams, cuGraphMemcpyNodeGetParams, cuGraphMemcpyNodeSetParams,
    cuGraphMemsetNodeGetParams, cuGraphMemsetNodeSetParams, cuGraphNodeFindInClone,
    cuGraphNodeGetDependencies_v2, cuGraphNodeGetDependentNodes, cuGraphNodeGetDependentNodes_v2,
    cuGraphNodeGetEnabled, cuGraphNodeSetEnabled, cuGraphNodeSetParams, cuGraphReleaseUserObject,
    cuGraphRemoveDependencies, cuGraphRemoveDependencies_v2, cuGraphRetainUserObject,
    cuGraphicsMapResources, cuGraphicsResourceGetMappedMipmappedArray,
    cuGraphicsResourceGetMappedPointer_v2, cuGraphicsResourceSetMapFlags_v2,
    cuGraphicsSubResourceGetMappedArray, cuGraphicsUnmapResources, cuGraphicsUnregisterResource,
    cuGreenCtxCreate, cuGreenCtxDestroy, cuGreenCtxGetDevResource, cuGreenCtxRecordEvent,
    cuGreenCtxStreamCreate, cuGreenCtxWaitEvent, cuImportExternalMemory, cuImportExternalSemaphore,
    cuIpcCloseMemHandle, cuIpcGetEventHandle, cuIpcGetMemHandle, cuIpcOpenEventHandle,
    cuIpcOpenMemHandle_v2,         cuLibraryGetManaged,
    cuLibraryGetUnifiedFunction,     cuLinkAddData_v2, cuLinkAddFile_v2, cuLinkComplete, cuLinkCreate_v2, cuLinkDestroy,
    cuLogsCurrent, cuLogsDumpToFile, cuLogsDumpToMemory, cuLogsRegisterCallback, cuLogsUnregisterCallback,
    cuMemAddressFree, cuMemAddressReserve, cuMemBatchDecompressAsync, cuMemCreate,
    cuMemExportToShareableHandle, cuMemGetAccess, cuMemGetAllocationGranularity,
    cuMemGetAllocationPropertiesFromHandle, cuMemGetHandleForAddressRange, cuMemHostRegister_v2,
    cuMemHostUnregister, cuMemImportFromShareableHandle, cuMemMap, cuMemMapArrayAsync,
    cuMemPoolExportPointer, cuMemPoolExportToShareableHandle, cuMemPoolGetAccess,
    cuMemPoolImportFromShareableHandle, cuMemPoolImportPointer, cuMemPoolSetAccess, cuMemRangeGetAttribute,
    cuMemRangeGetAttributes, cuMemRelease, cuMemRetainAllocationHandle, cuMemSetAccess, cuMemUnmap,
    cuMemcpy3DAsync_v2, cuMemcpy3DBatchAsync, cuMemcpy3DPeer, cuMemcpy3DPeerAsync, cuMemcpy3D_v2,
    cuMemcpyAtoA_v2, cuMemcpyAtoD_v2, cuMemcpyAtoHAsync_v2, cuMemcpyAtoH_v2, cuMemcpyBatchAsync,
    cuMemcpyDtoA_v2, cuMemcpyHtoAAsync_v2, cuMemcpyHtoA_v2, cuMipmappedArrayCreate, cuMipmappedArrayDestroy,
    cuMipmappedArrayGetLevel, cuMipmappedArrayGetMemoryRequirements, cuMipmappedArrayGetSparseProperties,
    cuMulticastAddDevice, cuMulticastBindAddr, cuMulticastBindMem, cuMulticastCreate,
    cuMulticastGetGranularity, cuMulticastUnbind, cuPointerSetAttribute, cuSignalExternalSemaphoresAsync,
    cuStreamBatchMemOp_v2, cuStreamBeginCaptureToGraph, cuStreamCopyAttributes, cuStreamGetAttribute,
    cuStreamGetGreenCtx, cuStreamSetAttribute, cuStreamUpdateCaptureDependencies_v2, cuStreamWaitValue32_v2,
    cuStreamWaitValue64_v2, cuStreamWriteValue32_v2, cuStreamWriteValue64_v2, cuSurfObjectCreate,
    cuSurfObjectDestroy, cuSurfObjectGetResourceDesc, cuTensorMapEncodeIm2col, cuTensorMapEncodeIm2colWide,
    cuTensorMapEncodeTiled, cuTensorMapReplaceAddress, cuTexObjectCreate, cuTexObjectDestroy,
    cuTexObjectGetResourceDesc, cuTexObjectGetResourceViewDesc, cuTexObjectGetTextureDesc,
    cuUserObjectCreate, cuUserObjectRelease, cuUserObjectRetain, cuWaitExternalSemaphoresAsync,
    // Of the interface from before 64-bit addresses, and older ways to launch: a program that means the
    // present ones asks for them with their suffix.
    cuCtxCreate, cuDeviceTotalMem, cuModuleGetGlobal, cuMemGetInfo, cuMemAlloc, cuMemAllocPitch, cuMemFree,
    cuMemGetAddressRange, cuMemAllocHost, cuMemHostGetDevicePointer, cuMemHostRegister, cuMemcpyHtoD,
    cuMemcpyDtoH, cuMemcpyDtoD, cuMemcpyHtoDAsync, cuMemcpyDtoHAsync, cuMemcpyDtoDAsync, cuMemcpy2D,
    cuMemcpy2DUnaligned, cuMemcpy2DAsync, cuMemcpy3D, cuMemcpy3DAsync, cuMemsetD8, cuMemsetD16, cuMemsetD32,
    cuMemsetD2D8, cuMemsetD2D16, cuMemsetD2D32, cuGraphAddKernelNode, cuGraphKernelNodeGetParams,
    cuGraphKernelNodeSetParams, cuGraphExecKernelNodeSetParams, cuGraphInstantiate, cuLinkCreate,
    cuLinkAddData, cuLinkAddFile, cuIpcOpenMemHandle, cuArrayCreate, cuArray3DCreate, cuStreamWaitValue32,
    cuStreamWaitValue64, cuStreamWriteValue32, cuStreamWriteValue64, cuStreamBatchMemOp, cuLaunch,
    cuLaunchGrid, cuLaunchGridAsync, cuFuncSetBlockShape, cuFuncSetSharedSize, cuParamSetSize, cuParamSeti,
    cuParamSetf, cuParamSetv, cuTexRefCreate, cuTexRefSetAddress_v2, cuModuleGetTexRef, cuModuleGetSurfRef,
    cuLaunchCooperativeKernelMultiDevice, cuProfilerInitialize, cuCtxAttach, cuCtxDetach,
}
