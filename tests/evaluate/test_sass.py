"""What is read from the text that nvdisasm and ptxas print."""

from __future__ import annotations

from kopt.evaluate import sass


def code(*lines: str) -> tuple[sass.Instruction, ...]:
    """Instructions as nvdisasm prints them, 16 bytes apart."""
    return sass.parse("\n".join(f"        /*{16 * n:04x}*/        {line} ;" for n, line in enumerate(lines)))


QGMMA = "QGMMA.64x256x32.F32.E4M3.E4M3 R24, gdesc[UR8], R24"


def test_predicates_suffixes_and_operands_are_told_apart() -> None:
    (instruction,) = sass.parse("        /*2210*/              @!UP0 BRA.U 0x1c50 ;\n")
    assert instruction == (0x2210, "BRA.U", "0x1c50")


def test_scheduling_notes_of_an_older_nvdisasm_are_no_operands() -> None:
    text = "   /*29e0*/     BRA.U !UP0, 0x1cd0       &wr=0x1      ?trans11;\n   /*29f0*/   MOV R213, RZ     ?trans1;\n"
    assert [i.operands for i in sass.parse(text)] == ["!UP0, 0x1cd0", "R213, RZ"]


def test_headers_are_no_instructions() -> None:
    assert sass.parse('\t.headerflags\t@"EF_CUDA_64BIT_ADDRESS EF_CUDA_SM90"\n') == ()


def test_matrix_instructions_keep_every_suffix() -> None:
    found = sass.mma(code(QGMMA, QGMMA, "HMMA.16816.F32.BF16 R0, R1, R2, R0", "UTCQMMA gdesc[UR6]", "FMUL R0, R1, R2"))
    assert found == {"QGMMA.64x256x32.F32.E4M3.E4M3": 2, "HMMA.16816.F32.BF16": 1, "UTCQMMA": 1}


def test_narrow_accesses_are_a_class_of_their_own() -> None:
    assert sass.opcode_class("STS.U8") == "STS.U8"
    assert sass.opcode_class("LDG.E.U8.CONSTANT") == "LDG.U8"
    assert sass.opcode_class("LDG.E.128") == "LDG"
    assert sass.opcode_class("UTMALDG.2D") == "UTMALDG"


def test_hot_loop_is_the_shortest_span_with_half_of_the_matrix_instructions() -> None:
    loop = sass.hot_loop(
        code(
            "MOV R0, R1",
            "LDG.E R2, [R0]",  # 0x10: the loop
            QGMMA,
            "@P0 BRA 0x10",
            QGMMA,  # the last iteration, peeled
            "EXIT",
            "@!P1 BRA 0x60",  # a wait out of line
            "BRA 0x0",  # and the way back, over everything
        )
    )
    assert [i.address for i in loop] == [0x10, 0x20, 0x30]


def test_a_loop_without_matrix_instructions_is_found_by_its_loads() -> None:
    loop = sass.hot_loop(code("MOV R0, R1", "LDG.E.128 R2, [R0]", "FADD R4, R2, R3", "@P0 BRA 0x10", "EXIT"))
    assert [i.opcode for i in loop] == ["LDG.E.128", "FADD", "BRA"]


def test_straight_code_has_no_hot_loop() -> None:
    assert sass.hot_loop(code("LDG.E R2, [R0]", QGMMA, "EXIT", "BRA 0x30")) == ()


def test_a_wait_for_every_product_means_serialised() -> None:
    serial = [QGMMA + ", gsb0", "WARPGROUP.DEPBAR.LE gsb0, 0x0"] * 4
    assert sass.waits_per_mma(code(*serial)) == 1.0


def test_a_wait_that_leaves_one_in_flight_does_not_count() -> None:
    assert sass.waits_per_mma(code(QGMMA, QGMMA, QGMMA + ", gsb0", "WARPGROUP.DEPBAR.LE gsb0, 0x1")) == 0.0


def test_kernels_without_warp_group_products_have_no_waits_to_count() -> None:
    assert sass.waits_per_mma(code("QMMA.16832.F32.E4M3.E4M3 R4, R8, R12, R4")) is None


def test_what_a_library_inlined_belongs_to_the_source_line_before_it() -> None:
    lines = {0: ("kernel.py", 7), 16: ("standard.py", 43), 32: ("standard.py", 44), 48: ("kernel.py", 9)}
    counts = sass.by_line(code("MOV R0, R1", "IADD3 R0, R1", "FADD R0, R1", "EXIT"), lines)
    assert counts == {"7": {"MOV": 1, "IADD3": 1, "FADD": 1}, "9": {"EXIT": 1}}


def test_a_prologue_without_a_line_belongs_to_the_first() -> None:
    assert sass.by_line(code("LDC R1, c[0x0]", "EXIT"), {16: ("kernel.py", 5)}) == {"5": {"LDC": 1, "EXIT": 1}}


LOG = """\
ptxas info    : (C7515) Potential Performance Loss: wgmma.mma_async instructions are serialized due to non wgmma \
instructions defining accumulator registers of a wgmma in the function 'k_major_kernel'
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'k_major_kernel' for 'sm_90a'
ptxas info    : Function properties for k_major_kernel
    1232 bytes stack frame, 2124 bytes spill stores, 1200 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 1232 bytes cumulative stack size
"""


def test_registers_spills_and_remarks_are_read_from_the_log_of_ptxas() -> None:
    used = sass.resources(LOG)
    assert (used.registers, used.spill_stores, used.spill_loads, used.stack) == (255, 2124, 1200, 1232)
    assert len(used.remarks) == 1
    assert used.remarks[0].startswith("C7515: Potential Performance Loss: wgmma.mma_async instructions are serialized")
    assert "k_major_kernel" not in used.remarks[0]


def test_depth_is_that_of_the_operands_not_of_staging_buffers_or_barriers() -> None:
    ttgir = """
    %bar = ttg.local_alloc : () -> !ttg.memdesc<9x1xi64, #shared, #smem, mutable>
    %a = ttg.local_alloc : () -> !ttg.memdesc<3x128x128xf8E4M3FN, #shared1, #smem, mutable>
    %b = ttg.local_alloc : () -> !ttg.memdesc<3x256x128xf8E4M3FN, #shared1, #smem, mutable>
    %c = ttg.local_alloc : () -> !ttg.memdesc<2x64x64xbf16, #shared2, #smem, mutable>
    """
    assert sass.pipeline_depth(ttgir) == 3


def test_a_single_tile_in_shared_memory_is_no_pipeline() -> None:
    assert sass.pipeline_depth("%a = ttg.local_alloc %x : () -> !ttg.memdesc<128x128xf8E4M3FN, #shared>") is None
