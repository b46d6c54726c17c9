from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class InferenceCallbackRequest(_message.Message):
    __slots__ = ("task_id", "result_type", "analysis_result", "callback_type")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    RESULT_TYPE_FIELD_NUMBER: _ClassVar[int]
    ANALYSIS_RESULT_FIELD_NUMBER: _ClassVar[int]
    CALLBACK_TYPE_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    result_type: str
    analysis_result: str
    callback_type: str
    def __init__(self, task_id: _Optional[str] = ..., result_type: _Optional[str] = ..., analysis_result: _Optional[str] = ..., callback_type: _Optional[str] = ...) -> None: ...

class InferenceCallbackResponse(_message.Message):
    __slots__ = ("code", "msg")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MSG_FIELD_NUMBER: _ClassVar[int]
    code: int
    msg: str
    def __init__(self, code: _Optional[int] = ..., msg: _Optional[str] = ...) -> None: ...
