//! What instructions touch of a frame, and what makes all of it alive.

use gdb_leak::unwind::{Slots, Unclear};
use proptest::prelude::*;

use crate::assembly::{START, listing, rules, slots};

const NOTHING: [i64; 0] = [];

/// The listing, after a prologue that makes room for three words.
fn in_frame(text: &str) -> Slots {
    let epilogue = "
        4883c418           add rsp,0x18
        = rsp+8
        c3                 ret";
    slots(&format!(
        "
        4883ec18           sub rsp,0x18
        = rsp+32
        {text}{epilogue}"
    ))
}

/// The listing, in a frame of four words with a frame pointer, behind a call.
fn with_frame_pointer(text: &str) -> Slots {
    slots(&format!(
        "
        55                 push rbp
        = rsp+16
        4889e5             mov rbp,rsp
        = rbp+16
        4883ec20           sub rsp,0x20
        e8fb0f0000         call .+0x1000
        {text}
        c9                 leave
        = rsp+8
        c3                 ret"
    ))
}

fn touched(slots: &Slots) -> Vec<i64> {
    assert_eq!(slots.unclear, None);
    slots.touched.clone()
}

#[test]
fn words_that_only_align_a_frame_are_not_touched() {
    // What gcc -O0 makes of a function with one argument: 32 bytes, of which it needs four.
    let found = slots(
        "
        55                 push rbp
        = rsp+16
        @ -16
        4889e5             mov rbp,rsp
        = rbp+16
        4883ec20           sub rsp,0x20
        897dec             mov dword ptr [rbp-0x14],edi
        e8fb0f0000         call .+0x1000
        8b45ec             mov eax,dword ptr [rbp-0x14]
        c9                 leave
        = rsp+8
        c3                 ret",
    );
    // -0x24 from the CFA lies in the fifth word below it.
    assert_eq!(touched(&found), [-5, -2]);
    assert!(found.returns(16) && !found.returns(11));
    assert!(found.starts(11) && !found.starts(12));
}

#[test]
fn an_access_touches_each_word_that_it_has_a_byte_in() {
    assert_eq!(touched(&in_frame("88442408 mov byte ptr [rsp+8],al")), [-3]);
    assert_eq!(touched(&in_frame("89442406 mov dword ptr [rsp+6],eax")), [-4, -3]);
    assert_eq!(touched(&in_frame("0f290424 movaps xmmword ptr [rsp],xmm0")), [-4, -3]);
    assert_eq!(touched(&in_frame("c5fe6f4c24f8 vmovdqu ymm1,ymmword ptr [rsp-8]")), [-5, -4, -3, -2]);
    assert_eq!(touched(&in_frame("48837c241000 cmp qword ptr [rsp+16],0")), [-2]);
    assert_eq!(touched(&in_frame("ff542408 call qword ptr [rsp+8]")), [-3]);
}

#[test]
fn an_instruction_that_only_names_a_place_does_not_touch_it() {
    assert_eq!(touched(&in_frame("0f1f442408 nop dword ptr [rsp+8]")), NOTHING);
}

#[test]
fn arguments_of_the_function_are_above_its_cfa() {
    assert_eq!(touched(&in_frame("488b442428 mov rax,qword ptr [rsp+0x28]")), [1]);
}

#[test]
fn pushes_and_pops_touch_their_slots() {
    let found = slots(
        "
        53                 push rbx
        = rsp+16
        4883ec10           sub rsp,0x10
        = rsp+32
        ff742408           push qword ptr [rsp+8]
        = rsp+40
        e8fb0f0000         call .+0x1000
        58                 pop rax
        = rsp+32
        4883c410           add rsp,0x10
        = rsp+16
        5b                 pop rbx
        = rsp+8
        c3                 ret",
    );
    assert_eq!(touched(&found), [-5, -3, -2]);
}

#[test]
fn pushes_behind_the_frame_pointer_are_known_in_a_straight_line() {
    let prologue = "
        55                 push rbp
        = rsp+16
        4889e5             mov rbp,rsp
        = rbp+16
        4157               push r15
        4883ec18           sub rsp,0x18
        57                 push rdi
        488b442408         mov rax,qword ptr [rsp+8]";
    let epilogue = "
        4c8b7df8           mov r15,qword ptr [rbp-8]
        c9                 leave
        = rsp+8
        c3                 ret";
    assert_eq!(touched(&slots(&format!("{prologue}{epilogue}"))), [-7, -6, -3, -2]);
    for after in ["57 push rdi", "488b442408 mov rax,qword ptr [rsp+8]", "5f pop rdi"] {
        let found = slots(&format!("{prologue}\ne8fb0f0000 call .+0x1000\n{after}{epilogue}"));
        assert_eq!(found.unclear, None, "{after}");
    }
}

#[test]
fn an_epilogue_that_pops_what_calls_preserve_is_known() {
    let found = with_frame_pointer(
        "
        488d65f0           lea rsp,[rbp-0x10]
        5b                 pop rbx
        415c               pop r12
        4883ec20           sub rsp,0x20",
    );
    assert_eq!(touched(&found), [-4, -3, -2]);
    // The depth is known after a call too.
    assert_eq!(touched(&with_frame_pointer("5b pop rbx")), [-6, -2]);
}

#[test]
fn rbp_is_a_register_like_others_where_it_does_not_tell_the_cfa() {
    let plain = "
        488945f8           mov qword ptr [rbp-8],rax
        488d44fd00         lea rax,[rbp+rdi*8]
        4889c5             mov rbp,rax
        4801fd             add rbp,rdi";
    assert_eq!(touched(&in_frame(plain)), NOTHING);
}

#[test]
fn the_stack_pointer_itself_in_memory_keeps_the_frame() {
    for stored in ["488927 mov qword ptr [rdi],rsp", "4889642408 mov qword ptr [rsp+8],rsp", "54 push rsp"] {
        let unclear = in_frame(stored).unclear;
        assert!(matches!(unclear, Some(Unclear::Address | Unclear::Rules)), "{stored}: {unclear:?}");
    }
}

#[test]
fn an_address_that_leaves_the_registers_escapes() {
    for escapes in [
        "488d442408 lea rax,[rsp+8]\n488907 mov qword ptr [rdi],rax",
        "488d7c2408 lea rdi,[rsp+8]\ne8fb0f0000 call .+0x1000",
        "4889e7 mov rdi,rsp\n0f05 syscall",
        "488d442408 lea rax,[rsp+8]\n66480f6ec0 movq xmm0,rax",
    ] {
        let found = in_frame(escapes);
        assert_eq!((found.unclear, found.escapes), (None, true), "{escapes}");
    }
    // One that is only used as an address is known.
    let local = in_frame("488d442408 lea rax,[rsp+8]\n48c70000000000 mov qword ptr [rax],0");
    assert_eq!((local.touched, local.escapes), (vec![-3], false));
}

#[test]
fn a_register_that_is_put_into_a_local_whose_address_escaped_is_read() {
    const RBX: u8 = 3;
    // rbx is the local's next value; an instruction that names the local has read it before.
    let reads = |first: &str| {
        let found = in_frame(&format!(
            "
            488b442408         mov rax,qword ptr [rsp+8]
            {first}
            e8fb0f0000         call .+0x1000
            48895c2408         mov qword ptr [rsp+8],rbx
            31db               xor ebx,ebx
            31ff               xor edi,edi
            e8fb0f0000         call .+0x1000"
        ));
        found.reads(14, RBX)
    };
    assert_eq!(reads("488d7c2408 lea rdi,[rsp+8]"), Some(true));
    assert_eq!(reads("488b7c2408 mov rdi,qword ptr [rsp+8]"), Some(false));
}

/// Whether the word at `rsp+8`, that was written, is dead before the listing is run.
///
/// Of a frame that is alive as a whole it is not.
fn dead_before(text: &str) -> bool {
    let found = in_frame(&format!("48897c2408 mov qword ptr [rsp+8],rdi\n{text}"));
    found.dead(9).is_some_and(|dead| dead.contains(&-3))
}

/// As `dead_before`, of the word at `rbp-0x10` in a frame with a frame pointer.
fn dead_below_frame_pointer(text: &str) -> bool {
    let found = with_frame_pointer(&format!("48897df0 mov qword ptr [rbp-0x10],rdi\n{text}"));
    found.dead(17).is_some_and(|dead| dead.contains(&-4))
}

#[test]
fn an_access_at_a_place_that_only_the_program_knows_reads_all_locals() {
    for elsewhere in ["488b07 mov rax,qword ptr [rdi]", "488b0424 mov rax,qword ptr [rsp]"] {
        assert!(dead_before(elsewhere), "{elsewhere}");
    }
    for place in [
        "488b04fc mov rax,qword ptr [rsp+rdi*8]",
        "8b44bc20 mov eax,dword ptr [rsp+rdi*4+0x20]",
        "67488b442408 mov rax,qword ptr [esp+8]",
        "67488b0424 mov rax,qword ptr [esp]",
        "64488b0424 mov rax,qword ptr fs:[rsp]",
        "65488b442410 mov rax,qword ptr gs:[rsp+0x10]",
        "480fa33c24 bt qword ptr [rsp],rdi",
        "480fab3c24 bts qword ptr [rsp],rdi",
        "c4e2ed9304cc vgatherqpd ymm0,qword ptr [rsp+ymm1*8],ymm2",
        "488d3424 lea rsi,[rsp]\nf3a4 rep movsb",
        "488d3424 lea rsi,[rsp]\n48ad lodsq",
        "488d3424 lea rsi,[rsp]\n4801fe add rsi,rdi\n488b06 mov rax,qword ptr [rsi]",
        "4889e6 mov rsi,rsp\n4883e6f0 and rsi,-16\n488b06 mov rax,qword ptr [rsi]",
        "89e5 mov ebp,esp\n488b4500 mov rax,qword ptr [rbp]",
    ] {
        assert!(!dead_before(place), "{place}");
    }
    assert!(dead_below_frame_pointer("488b07 mov rax,qword ptr [rdi]"));
    for place in [
        "488b0428 mov rax,qword ptr [rax+rbp]",
        "488b04e8 mov rax,qword ptr [rax+rbp*8]",
        "8b44bdf0 mov eax,dword ptr [rbp+rdi*4-0x10]",
        "67488b45f8 mov rax,qword ptr [ebp-8]",
        "64488b45f8 mov rax,qword ptr fs:[rbp-8]",
        "488d0428 lea rax,[rax+rbp]\n488b00 mov rax,qword ptr [rax]",
    ] {
        assert!(!dead_below_frame_pointer(place), "{place}");
    }
}

#[test]
fn a_write_at_a_place_that_only_the_program_knows_writes_all_locals_and_kills_none() {
    for place in [
        "488904fc mov qword ptr [rsp+rdi*8],rax",
        "674889442408 mov qword ptr [esp+8],rax",
        "6448890424 mov qword ptr fs:[rsp],rax",
        "8f442408 pop qword ptr [rsp+8]",
    ] {
        let found = in_frame(&format!("{place}\n488b442408 mov rax,qword ptr [rsp+8]"));
        let bytes = place.split(' ').next().unwrap().len() as u64 / 2;
        match found.unclear {
            None => assert_eq!(found.dead(4 + bytes), Some(vec![]), "{place}"),
            // The listing's rules do not follow the pop.
            Some(unclear) => assert_eq!(unclear, Unclear::Rules, "{place}"),
        }
        // What was written before may remain.
        assert!(!dead_before(&format!("{place}\n488b442408 mov rax,qword ptr [rsp+8]")), "{place}");
    }
    // All states of the processor: how many bytes is not known.
    assert!(!dead_before("0fae2424 xsave [rsp]\n488b442408 mov rax,qword ptr [rsp+8]"));
}

#[test]
fn one_bit_at_a_constant_place_touches_the_word_that_it_is_in() {
    assert_eq!(touched(&in_frame("480fba2c2403 bts qword ptr [rsp],3")), [-4]);
}

#[test]
fn an_address_that_is_taken_and_called_with_escapes() {
    for taken in [
        "488d442408 lea rax,[rsp+8]",
        "488d2c24 lea rbp,[rsp]\n4889e8 mov rax,rbp",
        "4889e0 mov rax,rsp",
        "89e0 mov eax,esp",
        "4801e0 add rax,rsp",
        "4809e0 or rax,rsp",
        "4889e0 mov rax,rsp\n4883e8f8 sub rax,-8",
        "4889e0 mov rax,rsp\n4887c7 xchg rdi,rax",
        "4889e1 mov rcx,rsp\n480f44c1 cmove rax,rcx",
    ] {
        let found = in_frame(&format!("{taken}\ne8fb0f0000 call .+0x1000"));
        assert_eq!((found.unclear, found.escapes), (None, true), "{taken}");
    }
    for taken in [
        "488d45f8 lea rax,[rbp-8]",
        "4889e8 mov rax,rbp",
        "488d0428 lea rax,[rax+rbp]",
        "4801e8 add rax,rbp",
        "0f47c5 cmova eax,ebp",
    ] {
        let found = with_frame_pointer(&format!("{taken}\ne8fb0f0000 call .+0x1000"));
        assert_eq!((found.unclear, found.escapes), (None, true), "{taken}");
    }
    assert!(with_frame_pointer("48896df8 mov qword ptr [rbp-8],rbp").escapes);
}

#[test]
fn what_moves_the_stack_pointer_in_ways_that_are_not_followed_keeps_the_frame() {
    for moves in ["c8080000 enter 8,0", "9c pushfq", "c9 leave", "4887e0 xchg rax,rsp"] {
        let unclear = in_frame(moves).unclear;
        assert!(unclear.is_some(), "{moves}");
    }
    for moves in ["488b6df8 mov rbp,qword ptr [rbp-8]", "4883c508 add rbp,8", "55 push rbp"] {
        let found = with_frame_pointer(moves);
        assert!(found.unclear.is_some() || found.escapes, "{moves}");
    }
}

#[test]
fn a_frame_of_variable_size_is_alive() {
    for size in
        ["4829c4 sub rsp,rax", "4883e4e0 and rsp,-32", "4889c4 mov rsp,rax", "488d2404 lea rsp,[rsp+rax]"]
    {
        let unclear = with_frame_pointer(size).unclear;
        assert!(matches!(unclear, Some(Unclear::Size | Unclear::Address)), "{size}: {unclear:?}");
    }
}

#[test]
fn what_is_no_code_keeps_the_frame() {
    for bytes in ["06 no instruction", "cc int3", "f1 int1", "eb01 a jump into\n8b an instruction\nc0"] {
        assert_eq!(in_frame(bytes).unclear, Some(Unclear::Code), "{bytes}");
    }
    let listing = listing("c3 ret");
    assert_eq!(Slots::find(&[], &rules(&listing)).unclear, Some(Unclear::Code));
}

#[test]
fn rules_that_say_what_the_code_does_not_do_are_not_believed() {
    for contradiction in [
        // The stack pointer moves and the rules do not, or the other way round.
        "4883ec08 sub rsp,8",
        "50 push rax",
        "= rsp+40",
        "7500 jne .+2\n= rsp+40",
        // Nothing made it the frame pointer.
        "90 nop\n= rbp+32",
        // A jump to where the frame would be another one.
        "7404 je .+6",
        "= ?",
    ] {
        assert_eq!(in_frame(contradiction).unclear, Some(Unclear::Rules), "{contradiction}");
    }
    let elsewhere = with_frame_pointer("89c0 mov eax,eax\n= rbp+24\n89c0 mov eax,eax\n= rbp+16");
    assert_eq!(elsewhere.unclear, Some(Unclear::Rules));
    let listing = listing("c3 ret");
    let told = gdb_leak::unwind::Rules { expressions: true, ..rules(&listing) };
    assert_eq!(Slots::find(&listing.code, &told).unclear, Some(Unclear::Rules));
}

#[test]
fn the_rules_may_change_behind_what_does_not_go_on() {
    let found = slots(
        "
        4883ec18           sub rsp,0x18
        = rsp+32
        85ff               test edi,edi
        740a               je .+12
        4883c418           add rsp,0x18
        = rsp+8
        c3                 ret
        660f1f0400         nop word ptr [rax+rax]
        = rsp+32
        e8fb0f0000         call .+0x1000",
    );
    assert_eq!(touched(&found), NOTHING);
}

#[test]
fn a_part_may_start_with_room_that_has_the_rules_of_a_functions_start() {
    let found = slots(
        "
        90                 nop
        = rsp+32
        488b7c2408         mov rdi,qword ptr [rsp+8]
        e8fb0f0000         call .+0x1000",
    );
    // Nothing that is known here makes its frame.
    assert_eq!(found.unclear, Some(Unclear::Entry));
}

#[test]
fn a_jump_may_lead_over_the_prefix_that_makes_an_instruction_atomic() {
    let skips = "7401 je .+3\nf00fb11f lock cmpxchg dword ptr [rdi],ebx";
    assert_eq!(touched(&in_frame(skips)), NOTHING);
}

#[test]
fn a_jump_to_nobody_knows_where_keeps_the_frame() {
    assert_eq!(in_frame("ffe0 jmp rax").unclear, Some(Unclear::Jump));
    assert_eq!(in_frame("ff24fd00100000 jmp qword ptr [rdi*8+0x1000]").unclear, Some(Unclear::Jump));
    assert_eq!(in_frame("e800000000 call .+5").unclear, Some(Unclear::Jump));
    // Without a frame it is the last call of the function.
    assert_eq!(touched(&slots("ffe0 jmp rax")), NOTHING);
    // The code goes on behind its end.
    assert_eq!(slots("85ff test edi,edi").unclear, Some(Unclear::Jump));
}

#[test]
fn a_table_of_labels_may_have_holes_and_is_read_to_its_end_or_not_at_all() {
    let listing = listing(
        "
        4883ec18           sub rsp,0x18
        = rsp+32
        ff24fd00100000     jmp qword ptr [rdi*8+0x1000]
        488b0424           mov rax,qword ptr [rsp]
        4883c418           add rsp,0x18
        = rsp+8
        c3                 ret",
    );
    let (reads, ends) = (START + 11, START + 15);
    let with = |table: &[u64]| Slots::with_table(&listing.code, &rules(&listing), table);
    assert_eq!(touched(&with(&[ends, reads])), [-4]);
    for (hole, unclear) in [(1, None), (64, None), (65, Some(Unclear::Entry))] {
        let table = [vec![ends], vec![0; hole], vec![reads]].concat();
        assert_eq!(with(&table).unclear, unclear, "{hole}");
    }
    let long = [vec![ends; 5000], vec![reads]].concat();
    assert_eq!(with(&long).unclear, Some(Unclear::Bound));
}

#[test]
fn jumps_elsewhere_take_the_frame_along_or_are_last_calls() {
    assert_eq!(touched(&slots("e9fb0f0000 jmp .+0x1000")), NOTHING);
    // With the frame it leads to a part of the function, which is not known here.
    let found = in_frame("0f85fa0f0000 jne .+0x1000\n0f85f40f0000 jne .+0xffa");
    assert_eq!(found.unclear, Some(Unclear::Jump));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn whatever_the_bytes_are_nothing_panics(
        code in prop::collection::vec(any::<u8>(), 0..200),
        cfas in prop::collection::vec((0_usize..200, any::<bool>(), any::<i64>()), 0..8),
        saved in prop::collection::vec(any::<i64>(), 0..4),
    ) {
        let mut listing = listing("");
        listing.code = code;
        listing.saved = saved;
        listing.cfas = cfas
            .into_iter()
            .map(|(at, frame_pointer, depth)| {
                use gdb_leak::unwind::Cfa::{Rbp, Rsp};
                (at, if frame_pointer { Rbp(depth) } else { Rsp(depth) })
            })
            .collect();
        listing.cfas.sort_by_key(|(at, _)| *at);
        let found = Slots::find(&listing.code, &rules(&listing));
        prop_assert!(found.touched.is_sorted());
    }
}
