(module_binding (module_name) @name) @definition.module
(module_type_definition (module_type_name) @name) @definition.interface
(type_binding name: (type_constructor) @name) @definition.type
(exception_definition (constructor_declaration (constructor_name) @name)) @definition.type
(constructor_declaration (constructor_name) @name) @definition.constant
(field_declaration (field_name) @name) @definition.field
(value_specification (value_name) @name) @definition.variable
(value_specification (value_name) @name type: (function_type)) @definition.function
(external (value_name) @name) @definition.function
(class_binding (class_name) @name) @definition.class
(class_type_binding (class_type_name) @name) @definition.interface
(method_specification (method_name) @name) @definition.method

; Uses
(type_definition) @outer
(module_definition) @outer
(class_definition) @outer
(comment) @comment

(module_path (module_name) @reference)
(extended_module_path (module_name) @reference)
(value_name) @reference
(type_constructor) @reference
(constructor_name) @reference
(field_name) @reference
(module_type_name) @reference
(method_name) @reference
(class_name) @reference
