"""What the kit found, as gpu.json and as a table for people, with the targets of docs/GPU.md."""
import json
import os

# What is to be reached on an H100 in bfloat16.
TARGETS = {"forward": 1.0, "cached": 1.5, "recording": 0.05, "profile": 60.0, "DiT-XL/2": 5.0, "FLUX.1's size": 60.0}


def save(result, folder):
    for name, text in (("gpu.json", json.dumps(result, indent=1) + "\n"), ("table.txt", table(result))):
        path = os.path.join(folder, name)
        with open(path + ".part", "w") as file:
            file.write(text)
        os.replace(path + ".part", path)


def scaled(seconds):
    return f"{1e3 * seconds:.3f} ms" if seconds < 1 else f"{seconds:.2f} s"


def judged(value, target, unit=""):
    return f"{value:.2f}{unit}, target {target:g}{unit}: {'reached' if value <= target else 'missed'}"


def of_speed(figures):
    for compute, rates in figures.get("rates", {}).items():
        yield f"measured rates, {compute}", f"{1e-12 * rates['flops_per_s']:.1f} TFLOP/s, {1e-9 * rates['bytes_per_s']:.0f} GB/s"
    for forward in figures.get("forward", []):
        name = f"{forward['blocks']} blocks, {forward['tokens']} tokens x {forward['batch']}, {forward['compute']}"
        torch = forward.get("torch", {})
        checked = "" if "check" in forward or torch else ", not checked"
        beside = f"; PyTorch ({torch['best']}) {scaled(torch['best_seconds'])}, " + judged(
            forward["full"]["seconds"] / torch["best_seconds"], TARGETS["forward"]) if "best" in torch else "; PyTorch: not measured"
        for kind in ("full", "cached"):
            found = forward[kind]
            text = scaled(found["seconds"])
            if "floor_seconds" in found:
                text += f", floor {scaled(found['floor_seconds'])} (products {scaled(found['products_seconds'])}, memory {scaled(found['memory_seconds'])})"
                text += f", {found['times_floor']:.2f} of it" if kind == "full" else ", of it " + judged(found["times_floor"], TARGETS["cached"])
            yield f"{name}: {kind}{checked}", text + (beside if kind == "full" else "")
    for blocks in figures.get("blocks", []):
        name = f"{blocks['blocks']} blocks of {blocks['model']}, {blocks['tokens']} tokens x {blocks['batch']}, {blocks['compute']}"
        for kind in ("full", "cached"):
            found = blocks[kind]
            text = scaled(found["seconds"])
            if "times_floor" in found:
                text += f", floor {scaled(found['floor_seconds'])}" + (
                    f", {found['times_floor']:.2f} of it" if kind == "full" else ", of it " + judged(found["times_floor"], TARGETS["cached"]))
            yield f"{name}: {kind}", text
    for profile in figures.get("profile", []):
        yield f"recording over sampling, {profile['compute']}", judged(profile["overhead"], TARGETS["recording"])
        yield (f"profile of {profile['whole_samples']} samples x {profile['whole_steps']} steps, {profile['compute']}",
               judged(profile["whole_seconds"], TARGETS["profile"], " s")
               + f"; {100 * (profile['whole_seconds'] / profile['whole_plain_seconds'] - 1):.0f} % more than sampling alone")


def of_factors(figures):
    for model in figures.get("factors", []):
        target = TARGETS.get(model["model"])
        text = judged(model["seconds"]["seconds"], target, " s") if target else scaled(model["seconds"]["seconds"])
        text += f", {model['seconds']['threads']} threads" + ("" if model["kinds"] else ", not checked")
        for other, seconds in model["torch_seconds"].items():
            text += f"; torch {other} {scaled(seconds)}"
        yield f"factors of {model['model']}", text
        if "left_out" in model:
            q = model["kinds"].get("q", {"torch": {}, "ousac": {}})
            alone = "".join(f"; torch {other} {scaled(found['seconds'])}" for other, found in q["torch"].items())
            ours = f"; one q, checked: {scaled(q['ousac']['each_seconds'])} on one thread{alone}" if "each_seconds" in q["ousac"] else ""
            yield f"factors of {model['model']}, left out", model["left_out"] + ours


ROWS = {"speed": of_speed, "blocks": of_speed, "factors": of_factors}


def table(result):
    machine = result.get("machine", {})
    lines = ["EMULATED: these figures say nothing of a GPU." if result["emulated"] else f"device: {machine.get('nvidia_smi') or 'none'}",
             f"{machine.get('date', '')}, {machine.get('processor', '')} x {machine.get('processors', '')}, PyTorch {machine.get('torch') or 'none'}", ""]
    for name, part in result["parts"].items():
        lines.append(f"{name:<12} {part['status']:<15} {part['seconds']:6.1f} s  {part['why']}")
        rows = None if result["emulated"] else ROWS.get(name)
        for what, text in rows(part.get("figures") or {}) if rows else ():
            lines.append(f"    {what}: {text}")
        if name == "sanitizer":
            for tool, found in (part.get("figures") or {}).items():
                lines.append(f"    {tool}: {found['operations']} groups of operations without a finding{'' if found['complete'] else ', then out of time'}")
        if name == "pipeline" and part.get("figures"):
            lines.append(f"    differences from the processor: {part['figures']['differences']}, fit {part['figures']['fit']['largest_difference']:.3g}")
        if name == "memory" and part.get("figures"):
            lines.append("    {refused} times refused, {resumed} of them with a state kept, {enough} times enough".format(**part["figures"]))
            lines.append(f"    in the middle of a calibration: {part['figures']['midway']}")
    return "\n".join(lines) + "\n"
